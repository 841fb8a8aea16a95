"""The candidates of containers with Apache: the selection, the ports and the checks without further options."""

from typing import Any

import pytest

from discovery import Backend, Candidate
from discovery.addresses import MachineFacts
from discovery.probes import HttpProbe, TcpProbe
from discovery_apache.config import ApacheConfig
from discovery_apache.modstatus import StatusProbe
from discovery_apache.rules import container_rules
from discovery_docker.candidates import find_candidates, resolve_conflicts
from discovery_docker.container import Binding, Container
from discovery_docker.machine import Machine
from discovery_docker.rules import Rules
from discovery_docker.selection import is_selected

MACHINE = Machine("m", MachineFacts(primary={4: "10.0.0.1"}))


def container(name: str = "web", image: str = "httpd:2.4", *ports: int, **more: Any) -> Container:
    published = {(port, "tcp"): (Binding("0.0.0.0", 30000 + port),) for port in ports or (80,)}
    return Container(f"{name:0<64}", name, image, running=True, **{"ports": published, **more})


def rules(**options: Any) -> Rules:
    found = container_rules(ApacheConfig.model_validate(options))
    assert found is not None
    return found


def found(*containers: Container, **options: Any) -> tuple[dict[str, Candidate], dict[str, str]]:
    findings = find_candidates(containers, frozenset(), rules(**options), MACHINE)
    candidates, conflicts = resolve_conflicts(findings.candidates)
    return {each.backend.key: each for each in candidates}, findings.problems | conflicts


def backend(*containers: Container, **options: Any) -> Backend:
    candidates, problems = found(*containers, **options)
    assert problems == {}
    (candidate,) = candidates.values()
    return candidate.backend


def problem(which: Container, **options: Any) -> str:
    candidates, problems = found(which, **options)
    assert candidates == {}
    return problems[f"container {which.name}"]


def probes(which: Container, **options: Any) -> list[object]:
    candidates, problems = found(which, **options)
    assert problems == {}
    return [check.probe for candidate in candidates.values() for check in candidate.checks]


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


def test_a_container_that_requests_a_name_is_selected_if_it_has_apaches_port() -> None:
    named = {"SERVICE_NAME": "shop"}
    assert backend(container("c", "shop", labels=named)).service == "shop"
    assert backend(container("c", "shop", env=named)).service == "shop"
    assert found(container("c", "redis", 6379, labels=named)) == ({}, {})
    assert found(container("c", "shop", labels=named), docker={"conventions": False}) == ({}, {})
    assert backend(container("c", "shop", 8080, labels=named), docker={"port": 8080}).port == 38080


def ports(which: Container, **options: Any) -> set[str]:
    candidates, problems = found(which, **options)
    assert problems == {}
    return {f"{each.backend.service} {each.backend.port}" for each in candidates.values()}


def test_the_registered_ports() -> None:
    assert ports(container("c", "httpd", 80, 443)) == {"httpd 30080"}
    assert ports(container("c", "httpd", 8080)) == {"httpd 38080"}
    assert ports(container("c", "httpd", 80, 443), docker={"port": [80, 443]}) == {"httpd-80 30080", "httpd-443 30443"}
    assert ports(container("c", "httpd", 80), docker={"port": [80, 443]}) == {"httpd 30080"}
    named = {"SERVICE_443_NAME": "tls", "SERVICE_NAME": "web"}
    assert ports(container("c", "httpd", 80, 443, labels=named)) == {"web-80 30080", "tls 30443"}
    ignored = named | {"SERVICE_443_IGNORE": "yes"}
    assert ports(container("c", "httpd", 80, 443, labels=ignored)) == {"web 30080"}
    assert ports(container("c", "httpd", 80, 443, labels=named), docker={"port": 80}) == {"web 30080"}
    assert ports(container(labels={"SERVICE_IGNORE": "true"}, ports={})) == set()


def test_a_port_that_is_not_published_is_named_with_the_container() -> None:
    assert "does not publish port 80, only 8080/tcp, 8443/tcp" in problem(container("c", "httpd", 8080, 8443))
    assert "does not publish port 9000, only 80/tcp" in problem(container(), docker={"port": 9000})
    assert "nor any other port" in problem(container(ports={}))
    told = problem(container(labels={"SERVICE_81_NAME": "x"}, ports={(82, "tcp"): (), (83, "tcp"): ()}))
    assert "does not publish port 81" in told


def test_the_checks_of_a_container() -> None:
    assert probes(container()) == [HttpProbe(status=((100, 499),))]
    assert probes(container(), check=False) == []
    asking = container(labels={"SERVICE_CHECK_HTTP": "/health"})
    assert probes(asking) == [HttpProbe("/health")]  # what names a path means that it is there
    assert probes(asking, check={"status": "200"}) == [HttpProbe("/health", status=((200, 200),))]
    assert probes(asking, check={"type": "tcp"}) == [HttpProbe("/health")]
    assert probes(container(labels={"SERVICE_CHECK_TCP": "true"})) == [TcpProbe()]
    assert probes(asking, docker={"conventions": False}) == [HttpProbe(status=((100, 499),))]
    (check,) = found(container(labels={"SERVICE_CHECK_INTERVAL": "15s", "SERVICE_CHECK_TIMEOUT": "1s"}))[0][
        "httpd/m:web:80"
    ].checks
    assert (check.interval, check.timeout, check.fall) == (15, 1, 3)


def test_the_status_page_replaces_the_default_check() -> None:
    docker = {"status": "/server-status?auto"}
    page = HttpProbe("/server-status?auto")
    assert probes(container(), docker=docker) == [StatusProbe(page)]
    assert probes(container(), docker=docker, weight="load") == [StatusProbe(page, load=True)]
    assert probes(container(), docker=docker, check={"path": "/"})[1:] == [StatusProbe(page)]


def test_a_port_with_a_name_of_its_own_need_not_be_exposed_on_the_hosts_network() -> None:
    host: dict[str, Any] = {"ports": {}, "exposed": ((80, "tcp"),), "network_mode": "host"}
    assert ports(container(labels={"SERVICE_8080_NAME": "shop"}, **host)) == {"httpd-80 80", "shop 8080"}


def test_an_apache_image_that_was_named_by_its_id_is_selected() -> None:
    by_id = container("c", "0123456789ab", image_id="sha256:0123456789abcdef", image_names=("httpd:2.4",))
    assert ports(by_id) == {"httpd 30080"}
    other = container("c", "0123456789ab", image_id="sha256:0123456789abcdef", image_names=("nginx:1",))
    assert found(other) == ({}, {})


def test_the_service_is_called_after_the_image_unless_another_order_is_configured() -> None:
    composed = container(labels={"com.docker.compose.service": "shop"})
    assert ports(composed) == {"httpd 30080"}
    assert ports(composed, docker={"service_from": ["compose", "image"]}) == {"shop 30080"}
    nameless = container("c", "sha256:0123")
    assert "the image has no name to use as service name: set SERVICE_NAME or 'docker.service'" in problem(
        nameless, docker={"names": "c"}
    )


def test_a_container_can_name_64_ports() -> None:
    named = range(1000, 1200)
    greedy = container("web", "httpd", *named, labels={f"SERVICE_{port}_NAME": "web" for port in named})
    candidates, problems = found(greedy)
    assert len(candidates) == 64
    assert problems["container web"] == "the container names 200 ports; the first 64 are registered"
    assert len(found(greedy, docker={"port": list(named)})[0]) == 200
