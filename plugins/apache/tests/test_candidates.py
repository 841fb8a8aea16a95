"""What is Apache's own in the selection of containers, of ports and of checks."""

from typing import Any

import pytest
from finding import Finder, container

from discovery.probes import HttpProbe
from discovery_apache.config import ApacheConfig
from discovery_apache.modstatus import StatusProbe
from discovery_apache.rules import container_rules
from discovery_docker.container import Container
from discovery_docker.rules import Rules
from discovery_docker.selection import is_selected


def rules(**options: Any) -> Rules:
    found = container_rules(ApacheConfig.model_validate(options))
    assert found is not None
    return found


find = Finder(rules)
found, backend, problem, probes, ports = find.found, find.backend, find.problem, find.probes, find.ports


@pytest.mark.parametrize(
    ("image", "selected"),
    [
        ("httpd", True),
        ("httpd:2.4-alpine", True),
        ("httpd@sha256:" + "0" * 64, True),
        ("registry.example:5000/team/httpd:2.4", True),
        ("ubuntu/apache2:latest", True),
        ("bitnami/apache", True),
        ("registry.access.redhat.com/ubi9/httpd-24", True),
        ("php:8.2-apache", True),
        ("php:8.2-fpm", False),
        ("bitnami/apache-exporter", False),
        ("apache/kafka:3", False),
        ("nginx", False),
        ("", False),
    ],
)
def test_apaches_images_are_selected_by_default(image: str, selected: bool) -> None:
    assert is_selected(container("c", image), rules()) == selected


def test_an_apache_image_that_was_named_by_its_id_is_selected() -> None:
    by_id: dict[str, Any] = {"name": "c", "image": "0123456789ab", "image_id": "sha256:0123456789abcdef"}
    assert is_selected(container(**by_id, image_names=("httpd:2.4",)), rules())
    assert not is_selected(container(**by_id, image_names=("nginx:1",)), rules())


def test_a_container_that_requests_a_name_is_selected_if_it_has_apaches_port() -> None:
    named = {"SERVICE_NAME": "shop"}
    assert backend(container("c", "shop", labels=named)).service == "shop"
    assert backend(container("c", "shop", env=named)).service == "shop"
    assert backend(container("c", "shop", 8080, labels=named), docker={"port": 8080}).port == 38080


@pytest.mark.parametrize(
    ("which", "docker", "rule"),
    [
        (container(image="redis:7"), {}, "is not an Apache image, and the container has no SERVICE_NAME"),
        (
            container(image="redis:7", labels={"SERVICE_NAME": "cache"}),
            {"conventions": False},
            "is not an Apache image, and 'docker.conventions' is off",
        ),
        (
            container("web", "redis:7", 6379, labels={"SERVICE_NAME": "cache"}),
            {},
            "is not an Apache image, and the container does not expose port 80",
        ),
        (
            container(image="redis:7"),
            {"images": ["nginx"], "labelled": ["tier=web"]},
            "the container does not match 'docker.images' or 'docker.labelled'",
        ),
    ],
)
def test_a_container_that_is_left_out_is_named_with_the_rule(
    which: Container, docker: dict[str, Any], rule: str
) -> None:
    about = "" if docker.get("images") else "the image 'redis:7' "
    assert find.skipped(which, docker=docker) == {"container web": f"{about}{rule}"}
    assert found(which, docker=docker) == ({}, {})


def test_apaches_port_is_registered_and_ports_with_a_name_or_else_the_only_port() -> None:
    assert ports(container("c", "httpd", 80, 443)) == {"httpd 30080"}
    assert ports(container("c", "httpd", 8080)) == {"httpd 38080"}
    named = {"SERVICE_443_NAME": "tls", "SERVICE_NAME": "web"}
    assert ports(container("c", "httpd", 80, 81, 443, labels=named)) == {"web-80 30080", "tls 30443"}
    host: dict[str, Any] = {"ports": {}, "exposed": ((80, "tcp"), (81, "tcp")), "network_mode": "host"}
    assert ports(container(labels={"SERVICE_8080_NAME": "shop"}, **host)) == {"httpd-80 80", "shop 8080"}


def test_a_container_without_apaches_port_is_a_problem_and_not_left_out() -> None:
    assert "does not publish port 80, only 8080/tcp, 8443/tcp" in problem(container("c", "httpd", 8080, 8443))
    assert "nor any other port" in problem(container(ports={}))
    assert find.skipped(container(ports={})) == {}
    told = problem(container(labels={"SERVICE_81_NAME": "x"}, ports={(82, "tcp"): (), (83, "tcp"): ()}))
    assert "does not publish port 81" in told


def test_a_container_can_name_64_ports() -> None:
    named = range(1000, 1200)
    greedy = container("web", "httpd", *named, labels={f"SERVICE_{port}_NAME": "web" for port in named})
    candidates, problems = found(greedy)
    assert len(candidates) == 64
    assert problems["container web"] == "the container names 200 ports; the first 64 are registered"


def test_the_service_is_called_after_the_image_unless_another_order_is_configured() -> None:
    composed = container(labels={"com.docker.compose.service": "shop"})
    assert ports(composed) == {"httpd 30080"}
    assert ports(composed, docker={"service_from": ["compose", "image"]}) == {"shop 30080"}
    nameless = container("c", "sha256:0123")
    assert "the image has no name to use as service name: set SERVICE_NAME or 'docker.service'" in problem(
        nameless, docker={"names": "c"}
    )


def test_a_container_is_checked_without_an_option() -> None:
    assert probes(container()) == [HttpProbe(status=((100, 499),))]
    assert probes(container(), check=False) == []
    (check,) = found(container(labels={"SERVICE_CHECK_INTERVAL": "15s"}))[0]["httpd/m:web:80"].checks
    assert (check.interval, check.fall) == (15, 3)


def test_the_status_page_replaces_the_default_check() -> None:
    docker = {"status": "/server-status?auto"}
    page = HttpProbe("/server-status?auto")
    assert probes(container(), docker=docker) == [StatusProbe(page)]
    assert probes(container(), docker=docker, weight="load") == [StatusProbe(page, load=True)]
    assert probes(container(), docker=docker, check={"path": "/"})[1:] == [StatusProbe(page)]
