"""Containers and ports that the configuration leaves out, each reported with the rule."""

from typing import Any

import pytest
from finding import Finder, container

from discovery_docker.config import DockerConfig
from discovery_docker.container import Binding, Container
from discovery_docker.rules import Rules

skipped = Finder(lambda **options: Rules.of(DockerConfig.model_validate(options))).skipped


@pytest.mark.parametrize(
    ("which", "options", "rule"),
    [
        (container(ports={}), {}, "the container publishes no TCP port"),
        (container(), {"names": ["shop-*"]}, "the container does not match 'names'"),
        (
            container(),
            {"images": ["nginx"], "labelled": ["tier=web"]},
            "the container does not match 'images' or 'labelled'",
        ),
        (container(labels={"SERVICE_IGNORE": "1"}), {}, "SERVICE_IGNORE is set"),
        (container(), {"explicit": True}, "the container has no SERVICE_NAME, and 'explicit' is on"),
        (container(), {"explicit": True, "names": "web"}, "the container has no SERVICE_NAME, and 'explicit' is on"),
        (container(paused=True), {}, "the container is paused"),
    ],
)
def test_a_container_is_named_with_the_rule(which: Container, options: dict[str, Any], rule: str) -> None:
    assert skipped(which, **options) == {"container web": rule}


def test_a_container_that_is_being_stopped_is_skipped_unless_it_drains() -> None:
    assert skipped(container(), stopping="web") == {
        "container web": "the container is being stopped, and 'on_stop' is withdraw"
    }
    assert skipped(container(), stopping="web", on_stop="drain") == {}


def test_a_skipped_port_is_named_if_other_ports_are_registered() -> None:
    labels = {"SERVICE_443_NAME": "tls", "SERVICE_443_IGNORE": "yes"}
    assert skipped(container("web", "httpd", 80, 443, labels=labels)) == {
        "container web, port 443": "SERVICE_443_IGNORE is set"
    }


def test_a_port_without_a_name_is_skipped_if_names_are_required() -> None:
    named = container("web", "httpd", 80, 443, labels={"SERVICE_443_NAME": "tls"})
    assert skipped(named, explicit=True) == {
        "container web, port 80": "neither SERVICE_80_NAME nor SERVICE_NAME is set, and 'explicit' is on"
    }


def test_a_udp_port_is_skipped_beside_tcp_ports() -> None:
    both = {(80, "tcp"): (Binding("0.0.0.0", 1),), (53, "udp"): (Binding("0.0.0.0", 2),)}
    assert skipped(container(ports=both)) == {"container web, port 53/udp": "only TCP ports can be registered"}
    many = both | {(port, "udp"): (Binding("0.0.0.0", port),) for port in range(1000, 2000)}
    (listed,) = skipped(container(ports=many))
    assert (
        listed
        == "container web, port 53/udp, 1000/udp, 1001/udp, 1002/udp, 1003/udp, 1004/udp, 1005/udp, 1006/udp, ..."
    )


def test_registered_and_faulty_containers_are_not_skipped() -> None:
    assert skipped(container()) == {}
    assert skipped(container(ports={}), names=["web"]) == {}  # a problem, which is told as one
