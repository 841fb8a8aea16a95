"""Services of a real Swarm of one node: ports of the host, labels of services, an overlay network, the ingress mesh.

Whether the mesh answers is not tested, since many kernels lack IPVS: what matters here is which port is no container's.
"""

from collections.abc import Iterator
from typing import Any

import pytest
from docker.models.services import Service
from docker.types import EndpointSpec
from docker_fixtures import Provide
from docker_lab import DockerEngine
from histories import RegistryHistory

from discovery.testing import eventually_sync

HOST_PORT = EndpointSpec(mode="dnsrr", ports=[{"TargetPort": 80, "PublishMode": "host", "Protocol": "tcp"}])


@pytest.fixture
def swarm(docker_engine: DockerEngine) -> Iterator[DockerEngine]:
    """Return an engine that is the manager of a Swarm."""
    docker_engine.client.swarm.init(advertise_addr=docker_engine.address, listen_addr=docker_engine.address)
    yield docker_engine
    for service in docker_engine.client.services.list():
        service.remove()
    docker_engine.client.swarm.leave(force=True)


def create(engine: DockerEngine, name: str, **options: Any) -> Service:
    """`docker service create`: by the id of the image, for which no node asks a registry."""
    return engine.client.services.create(engine.client.images.get("busybox").id, name=name, **options)


def task_of(engine: DockerEngine, name: str) -> str:
    """Wait for the container of a service to run, and return its name."""
    filters = {"label": f"com.docker.swarm.service.name={name}"}

    def running() -> str | None:
        names = [each["Names"][0] for each in engine.client.api.containers(filters=filters)]
        return names[0].removeprefix("/") if names else None

    return str(eventually_sync(running, f"a task of {name}", timeout=60))


def test_a_task_with_a_port_of_the_host_has_the_labels_of_its_service(
    swarm: DockerEngine, registry: RegistryHistory, provide: Provide
) -> None:
    labels = {"SERVICE_TAGS": "of-service", "SERVICE_ZONE": "a", "discovery.host": "shop.example.com"}
    own = {"SERVICE_TAGS": "of-container"}
    service = create(swarm, "shop", endpoint_spec=HOST_PORT, labels=labels, container_labels=own)
    task = task_of(swarm, "shop")
    provide(address=swarm.address)
    registry.lists(task, timeout=60)
    ((key, record),) = registry.records.items()
    assert key.startswith("shop/")
    assert (record["host"], record["port"]) == (swarm.address, swarm.port(task))
    assert (record["tags"], record["zone"], record["discovery.host"]) == ("of-container", "a", "shop.example.com")

    # The task goes on, and an event tells that the service has changed.
    service.reload()
    service.update(labels={"SERVICE_ZONE": "b"}, endpoint_spec=HOST_PORT, container_labels=own, fetch_current_spec=True)

    def is_right() -> bool:
        (record,) = registry.records.values()
        return record["zone"] == "b" and "discovery.host" not in record

    eventually_sync(is_right, "the labels that the service has now", timeout=20)


def test_a_service_that_the_mesh_publishes_is_left_out_with_advice(
    swarm: DockerEngine, registry: RegistryHistory, provide: Provide
) -> None:
    create(swarm, "mesh", endpoint_spec=EndpointSpec(ports={8080: 80}))
    task = task_of(swarm, "mesh")
    swarm.run("web-1", "busybox")
    daemon = provide(networks=["*"])
    registry.lists("web-1", timeout=60)
    _, told = daemon.get("/api/providers")
    assert f"container {task}" in str(told)
    assert "ingress mesh publishes the service's port at every node" in str(told)


def test_a_task_on_an_overlay_network_has_its_address_there(
    swarm: DockerEngine, registry: RegistryHistory, provide: Provide
) -> None:
    swarm.client.networks.create("inside", driver="overlay")
    create(swarm, "shop", networks=["inside"], endpoint_spec=EndpointSpec(mode="dnsrr"))
    task = task_of(swarm, "shop")
    provide(networks=["inside"])
    registry.lists(task, timeout=60)
    inspected = swarm.client.api.inspect_container(task)
    assert registry.places == {task: f"{inspected['NetworkSettings']['Networks']['inside']['IPAddress']}:80"}


def test_a_node_that_is_no_manager_says_once_that_labels_of_services_are_not_read(
    docker_engine: DockerEngine, registry: RegistryHistory, provide: Provide
) -> None:
    """As an engine outside of a Swarm refuses to tell of services, too."""
    labels = {"com.docker.swarm.service.id": "hg3dy4fmr29v", "com.docker.swarm.service.name": "shop"}
    docker_engine.run("shop.1", "busybox", labels=labels)
    daemon = provide()
    registry.lists("shop.1")
    docker_engine.run("shop.2", "busybox", labels={**labels, "SERVICE_TAGS": "a"})
    registry.lists("shop.1", "shop.2")
    assert daemon.log.count("the labels of Swarm's services are not read") == 1
    assert "This node is not a swarm manager" in daemon.log
