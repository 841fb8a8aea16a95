"""The provider `docker` without options: every published port of every container, under names that it has already."""

import socket

from docker_fixtures import Provide
from docker_lab import DockerEngine
from histories import RegistryHistory

from discovery.testing import eventually_sync


def test_every_published_port_of_every_container_is_registered(
    docker_engine: DockerEngine, registry: RegistryHistory, provide: Provide
) -> None:
    place = (docker_engine.address, None)
    image = docker_engine.client.images.get("busybox").id
    docker_engine.run("composed", "busybox", labels={"com.docker.compose.service": "shop"})
    docker_engine.run("two", image, ports={"80/tcp": place, "81/tcp": place, "53/udp": place})
    docker_engine.run("silent", "busybox", publish=None)
    provide()
    host = socket.gethostname()
    keys = {f"shop/{host}:composed:80", f"busybox-80/{host}:two:80", f"busybox-81/{host}:two:81"}
    eventually_sync(lambda: registry.records.keys() == keys, f"{keys}", timeout=30)
    for key, record in registry.records.items():
        name, port = key.split(":")[1:]
        assert (record["host"], record["port"]) == (docker_engine.address, docker_engine.port(name, int(port)))


def test_containers_that_ask_for_it_alone(
    docker_engine: DockerEngine, registry: RegistryHistory, provide: Provide
) -> None:
    docker_engine.run("asks", "busybox", labels={"SERVICE_80_NAME": "shop"})
    docker_engine.run("other", "busybox")
    daemon = provide(explicit=True)
    registry.lists("asks")
    assert registry.records.keys() == {f"shop/{socket.gethostname()}:asks:80"}
    _, told = daemon.get("/api/providers")
    assert "the container has no SERVICE_NAME, and 'explicit' is on" in str(told)


def test_own_addresses_without_published_ports(
    docker_engine: DockerEngine, registry: RegistryHistory, provide: Provide
) -> None:
    docker_engine.run("inside", "busybox", publish=None)
    provide(internal=True)
    registry.lists("inside")
    own = docker_engine.client.api.inspect_container("inside")["NetworkSettings"]["IPAddress"]
    assert registry.places == {"inside": f"{own}:80"}
