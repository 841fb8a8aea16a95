"""The Docker laboratory on which the other tests rely."""

import urllib.request
from pathlib import Path

from docker_lab import DockerEngine

from discovery.testing import eventually_sync, within


def fetch(engine: DockerEngine, name: str, path: str = "/") -> tuple[str, str]:
    """Return the name of the container that answered, and the page."""
    with urllib.request.urlopen(f"http://{engine.address}:{engine.port(name)}{path}", timeout=within(5)) as answer:
        return answer.headers.get("X-Container", ""), answer.read().decode()


def test_apache_answers_reports_its_status_and_stops_gracefully(docker_engine: DockerEngine) -> None:
    container = docker_engine.run("web-1", hostname="one")
    assert eventually_sync(lambda: fetch(docker_engine, "web-1")) == ("one", "hello from apache\n")
    assert "\nIdleWorkers: " in fetch(docker_engine, "web-1", "/server-status?auto")[1]
    container.stop(timeout=10)
    container.reload()
    assert container.attrs["State"]["ExitCode"] == 0


def test_the_control_groups_of_containers_are_below_the_labs_own(docker_engine: DockerEngine) -> None:
    assert docker_engine.client.info()["CgroupDriver"] == "cgroupfs"
    docker_engine.run("web-1", "busybox")
    assert f":/{docker_engine.name}/" in Path(f"/proc/{docker_engine.pid('web-1')}/cgroup").read_text()


def test_containers_end_with_a_killed_engine(docker_engine: DockerEngine) -> None:
    container = docker_engine.run("web-1", "busybox")
    docker_engine.kill()
    docker_engine.start()
    container.reload()
    assert container.status == "exited"


def test_containers_outlive_an_engine_with_live_restore(live_restore_engine: DockerEngine) -> None:
    container = live_restore_engine.run("web-1", "busybox")
    live_restore_engine.kill()
    live_restore_engine.start()
    container.reload()
    assert container.status == "running"
    assert eventually_sync(lambda: fetch(live_restore_engine, "web-1"))[1] == "hello from busybox\n"


def test_a_container_on_a_named_network_is_reached_by_its_own_address(docker_engine: DockerEngine) -> None:
    docker_engine.network("inside")
    docker_engine.run("web-1", "busybox", publish=None, network="inside")
    container = docker_engine.client.api.inspect_container("web-1")
    address = container["NetworkSettings"]["Networks"]["inside"]["IPAddress"]

    def answer() -> bytes:
        with urllib.request.urlopen(f"http://{address}/", timeout=within(5)) as reply:
            return bytes(reply.read())

    assert eventually_sync(answer) == b"hello from busybox\n"
