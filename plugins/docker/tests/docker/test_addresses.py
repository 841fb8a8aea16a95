"""The announced address, at which the container answers."""

import urllib.request

import pytest
from docker_fixtures import Provide
from docker_lab import DockerEngine
from histories import RegistryHistory

from discovery.testing import eventually_sync, within


def answers(registry: RegistryHistory, name: str) -> bytes:
    """Wait for an announced address, and return the page there."""
    place = eventually_sync(lambda: registry.places.get(name), "an address", timeout=20)
    host, _, port = place.rpartition(":")
    with urllib.request.urlopen(
        f"http://[{host}]:{port}/" if ":" in host else f"http://{place}/", timeout=within(5)
    ) as answer:
        return bytes(answer.read())


def test_published_on_all_addresses(docker_engine: DockerEngine, registry: RegistryHistory, provide: Provide) -> None:
    docker_engine.run("web-1", publish="0.0.0.0")
    provide(address=docker_engine.address)
    assert answers(registry, "web-1") == b"hello from apache\n"
    assert registry.places["web-1"] == f"{docker_engine.address}:{docker_engine.port('web-1')}"


def test_published_on_an_ipv6_address(docker_engine: DockerEngine, registry: RegistryHistory, provide: Provide) -> None:
    docker_engine.run("web-1", publish=docker_engine.address6)
    provide()
    assert answers(registry, "web-1") == b"hello from apache\n"
    assert registry.places["web-1"] == f"{docker_engine.address6}:{docker_engine.port('web-1')}"


def test_on_the_machines_own_network(docker_engine: DockerEngine, registry: RegistryHistory, provide: Provide) -> None:
    docker_engine.run("web-1", publish=None, network_mode="host", environment={"PORT": "8081"})
    provide(address=docker_engine.address, port=8081)
    assert answers(registry, "web-1") == b"hello from apache\n"
    assert registry.places["web-1"] == f"{docker_engine.address}:8081"


@pytest.mark.parametrize("said_by", ["configuration", "label", "lone"])
def test_its_own_address_on_a_named_network(
    said_by: str, docker_engine: DockerEngine, registry: RegistryHistory, provide: Provide
) -> None:
    docker_engine.network("inside")
    labels = {"SERVICE_NETWORK": "inside"} if said_by == "label" else {}
    docker_engine.run("web-1", publish="" if said_by == "label" else None, network="inside", labels=labels)
    if said_by == "configuration":
        provide(network="inside")
    else:
        provide(networks=["inside"])
    assert answers(registry, "web-1") == b"hello from apache\n"
    inspected = docker_engine.client.api.inspect_container("web-1")
    own = inspected["NetworkSettings"]["Networks"]["inside"]["IPAddress"]
    assert registry.places["web-1"] == f"{own}:80"


def test_loopback_only_if_asked_for(docker_engine: DockerEngine, registry: RegistryHistory, provide: Provide) -> None:
    """Without a check, since no check reaches the loopback address of the laboratory's namespace."""
    docker_engine.run("web-1", publish="127.0.0.1")
    provide(loopback=True, check=False)
    registry.lists("web-1")
    assert registry.places["web-1"] == f"127.0.0.1:{docker_engine.port('web-1')}"
