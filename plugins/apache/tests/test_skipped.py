"""Containers and ports that the configuration leaves out, each reported with the rule."""

from typing import Any

import pytest

from discovery.addresses import MachineFacts
from discovery_apache.config import ApacheConfig
from discovery_apache.rules import container_rules
from discovery_docker.candidates import find_candidates
from discovery_docker.container import Binding, Container
from discovery_docker.machine import Machine

MACHINE = Machine("m", MachineFacts(primary={4: "10.0.0.1"}))


def container(name: str = "web", image: str = "httpd:2.4", *ports: int, **more: Any) -> Container:
    published = {(port, "tcp"): (Binding("0.0.0.0", 30000 + port),) for port in ports or (80,)}
    return Container(f"{name:0<64}", name, image, running=True, **{"ports": published, **more})


def skipped(which: Container, *, stopping: bool = False, **options: Any) -> dict[str, str]:
    rules = container_rules(ApacheConfig.model_validate(options))
    assert rules is not None
    return find_candidates([which], frozenset({which.id} if stopping else ()), rules, MACHINE).skipped


@pytest.mark.parametrize(
    ("which", "options", "rule"),
    [
        (
            container(image="redis:7"),
            {},
            "the image 'redis:7' is not an Apache image, and the container has no SERVICE_NAME",
        ),
        (
            container(image="redis:7", labels={"SERVICE_NAME": "cache"}),
            {"docker": {"conventions": False}},
            "the image 'redis:7' is not an Apache image, and 'docker.conventions' is off",
        ),
        (
            container("web", "redis:7", 6379, labels={"SERVICE_NAME": "cache"}),
            {},
            "the image 'redis:7' is not an Apache image, and the container does not expose port 80",
        ),
        (container(), {"docker": {"names": ["shop-*"]}}, "the container does not match 'docker.names'"),
        (
            container(),
            {"docker": {"images": ["nginx"], "labelled": ["tier=web"]}},
            "the container does not match 'docker.images' or 'docker.labelled'",
        ),
    ],
)
def test_a_container_is_named_with_the_rule(which: Container, options: dict[str, Any], rule: str) -> None:
    assert skipped(which, **options) == {"container web": rule}


def test_a_container_that_is_being_stopped_is_skipped_unless_it_drains() -> None:
    assert skipped(container(), stopping=True) == {
        "container web": "the container is being stopped, and 'docker.on_stop' is withdraw"
    }
    assert skipped(container(), stopping=True, docker={"on_stop": "drain"}) == {}


def test_a_container_without_its_port_is_a_problem_and_not_skipped() -> None:
    assert skipped(container()) == {}
    assert skipped(container(ports={})) == {}
