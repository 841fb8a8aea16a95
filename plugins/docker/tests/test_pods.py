"""Which container of a pod has which port."""

from typing import Any

import pytest

from discovery.addresses import MachineFacts
from discovery_docker.candidates import Findings, find_candidates
from discovery_docker.config import DockerConfig
from discovery_docker.container import Binding, Container
from discovery_docker.machine import Machine
from discovery_docker.rules import Rules

PORTS = {(80, "tcp"): (Binding("10.0.0.5", 8080),)}
TWO = PORTS | {(81, "tcp"): (Binding("10.0.0.5", 8081),)}


def infra(**fields: Any) -> Container:
    fields = {"ports": PORTS, "exposed": ((80, "tcp"),), "image": "localhost/podman-pause:4.3.1-0", **fields}
    return Container("i" * 64, "0123456789ab-infra", running=True, is_infra=True, **fields)


def member(name: str, *exposed: int, created_at: int = 0, **fields: Any) -> Container:
    fields = {"ports": PORTS, "network_mode": f"container:{'i' * 64}", "image": "web", **fields}
    declared = tuple((port, "tcp") for port in exposed)
    return Container(name * 16, name, running=True, exposed=declared, created_at=created_at, **fields)


def found(*containers: Container, **options: Any) -> Findings:
    rules = Rules.of(DockerConfig.model_validate({"service_from": "container", **options}))
    return find_candidates(containers, frozenset(), rules, Machine("host", MachineFacts()))


def registered(findings: Findings) -> dict[str, str]:
    return {
        each.candidate.backend.service: f"{each.candidate.backend.host}:{each.candidate.backend.port}"
        for each in findings.candidates
    }


def test_the_container_that_declares_the_port_has_it() -> None:
    findings = found(infra(), member("side"), member("web", 80, created_at=1))
    assert registered(findings) == {"web": "10.0.0.5:8080"}
    assert findings.problems == {}
    assert findings.skipped == {
        "container 0123456789ab-infra": "the container is Podman's, and holds the network of a pod",
        "container side": (
            "port 80 of the network that the container shares is that of the container 'web': SERVICE_80_NAME at one of"
            " them chooses"
        ),
    }


def test_each_port_has_its_container() -> None:
    one, other = member("one", 80, ports=TWO), member("two", 81, ports=TWO)
    assert registered(found(infra(ports=TWO), one, other)) == {"one": "10.0.0.5:8080", "two": "10.0.0.5:8081"}


def test_a_name_for_the_port_precedes_what_the_image_declares_unless_conventions_are_off() -> None:
    named = member("side", created_at=1, labels={"SERVICE_80_NAME": "shop"})
    assert registered(found(infra(), member("web", 80), named)) == {"shop": "10.0.0.5:8080"}
    assert registered(found(infra(), member("web", 80), named, conventions=False)) == {"web": "10.0.0.5:8080"}


def test_the_older_of_two_that_declare_the_port_has_it() -> None:
    """Also after a restart."""
    younger, older = member("a", 80, created_at=2, started_at=3), member("b", 80, created_at=1, started_at=4)
    assert registered(found(infra(), younger, older)) == {"b": "10.0.0.5:8080"}


def test_the_only_container_has_the_port_undeclared() -> None:
    assert registered(found(infra(), member("web"))) == {"web": "10.0.0.5:8080"}


def test_a_port_that_nobody_declares_is_a_problem_of_the_selected_containers() -> None:
    findings = found(infra(), member("side"), member("web"))
    assert registered(findings) == {}
    assert findings.problems == dict.fromkeys(
        ("container side", "container web"),
        "the pod publishes port 80, and none of its containers 'side', 'web' declares the port: set SERVICE_80_NAME at"
        " the container that serves it",
    )
    assert found(infra(), member("side"), member("web"), names=["other*"]).problems == {}


def test_the_configuration_chooses_a_container_and_its_port() -> None:
    """As `register-container` does."""
    options = {"names": ["side"], "port": 80, "service": "shop", "conventions": False}
    assert registered(found(infra(), member("side"), member("web", 80), **options)) == {"shop": "10.0.0.5:8080"}
    options["names"] = ["0123456789ab-infra"]
    assert registered(found(infra(), member("side"), member("web", 80), **options)) == {"shop": "10.0.0.5:8080"}


@pytest.mark.parametrize("name", [None, "shop"])
def test_without_a_pod_the_port_is_that_of_the_container_whose_network_it_is(name: str | None) -> None:
    """As of `podman run --network container:owner`."""
    owner = Container("i" * 64, "owner", running=True, ports=PORTS, created_at=5)
    labels = {} if name is None else {"SERVICE_80_NAME": name}
    assert registered(found(owner, member("web", 80, labels=labels))) == {name or "owner": "10.0.0.5:8080"}


def test_a_member_that_has_no_ports_in_docker_does_not_matter() -> None:
    owner = Container("i" * 64, "owner", running=True, ports=PORTS)
    assert registered(found(owner, member("web", 80, ports={}))) == {"owner": "10.0.0.5:8080"}
