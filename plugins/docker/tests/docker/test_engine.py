"""The containers that run and that are being stopped, as the class Engine reports a real dockerd."""

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
from docker.errors import APIError
from docker_lab import DockerEngine
from engine_following import following

from discovery.testing import eventually_sync
from discovery_docker.container import Container
from discovery_docker.engine import EngineState
from discovery_docker.patience import Patience


def test_a_container_is_started_stopped_and_gone(docker_engine: DockerEngine) -> None:
    with following(docker_engine.url) as seen:
        assert seen.states == [EngineState()]
        container = docker_engine.run("web-1")
        eventually_sync(lambda: seen.names == ["web-1"], "it to be seen")
        (binding,) = seen.get("web-1").ports[80, "tcp"]
        assert binding == (docker_engine.address, docker_engine.port("web-1"))
        assert seen.get("web-1").id == container.id
        assert seen.stopping == []
        container.stop()
        eventually_sync(lambda: seen.names == [], "it to be gone")
    assert [(len(state.containers), len(state.stopping)) for state in seen.states] == [(0, 0), (1, 0), (1, 1), (0, 0)]


def test_the_first_state_has_the_running_containers_by_name(docker_engine: DockerEngine) -> None:
    for name in ("web-2", "web-1"):
        docker_engine.run(name, "busybox")
    docker_engine.client.containers.create("busybox", name="never-started")
    with following(docker_engine.url) as seen:
        assert [container.name for container in seen.states[0].containers] == ["web-1", "web-2"]


def test_only_matching_containers_count_also_after_a_rename(docker_engine: DockerEngine) -> None:
    def is_web(container: Container) -> bool:
        return container.name.startswith("web")

    with following(docker_engine.url, match=is_web) as seen:
        other = docker_engine.run("other", "busybox")
        web = docker_engine.run("web-1", "busybox")
        eventually_sync(lambda: seen.names == ["web-1"])
        other.rename("web-0")
        eventually_sync(lambda: seen.names == ["web-0", "web-1"])
        web.rename("not-web")
        eventually_sync(lambda: seen.names == ["web-0"])


@pytest.mark.parametrize("digits", [None, 12])
def test_an_image_named_by_its_id_has_its_tags(digits: int | None, docker_engine: DockerEngine) -> None:
    image = docker_engine.client.images.get("busybox").id
    with following(docker_engine.url) as seen:
        docker_engine.run("web-1", image if digits is None else image.removeprefix("sha256:")[:digits])
        eventually_sync(lambda: seen.names == ["web-1"])
    assert seen.get("web-1").images == ("busybox:latest",)


def test_signals_that_do_not_stop_do_not_count(docker_engine: DockerEngine) -> None:
    """Apache stops at WINCH, and reloads at HUP and USR1."""
    with following(docker_engine.url) as seen:
        container = docker_engine.run("web-1")
        eventually_sync(lambda: seen.names == ["web-1"])
        for name in ("SIGUSR1", "SIGHUP"):
            container.kill(name)
        container.rename("web-2")
        eventually_sync(lambda: seen.names == ["web-2"])
        assert not any(state.stopping for state in seen.states)

        def is_stopped() -> bool:
            with suppress(APIError):  # that it does not run any more
                container.kill("SIGWINCH")  # again, since Apache may lose a signal that comes during a reload
            return seen.names == []

        eventually_sync(is_stopped)
        assert any(state.stopping for state in seen.states)


def test_a_container_that_survives_its_stop_signal_is_not_being_stopped(docker_engine: DockerEngine) -> None:
    container = docker_engine.run("web-1", "busybox", stop_signal="SIGTERM")  # which PID 1 ignores
    with following(docker_engine.url, patience=Patience(stop=0.5, after_stop=0.5)) as seen:
        container.kill("SIGTERM")
        eventually_sync(lambda: seen.stopping == ["web-1"])
        eventually_sync(lambda: seen.stopping == [])
        assert seen.names == ["web-1"]


def test_a_stop_that_began_before_the_session_is_known(docker_engine: DockerEngine) -> None:
    container = docker_engine.run("web-1", "busybox", stop_signal="SIGTERM")  # which PID 1 ignores
    with ThreadPoolExecutor() as pool:
        client = docker_engine.new_client()
        stopped = pool.submit(client.api.stop, container.id, timeout=60)
        with following(docker_engine.url) as before:
            eventually_sync(lambda: before.stopping == ["web-1"])
        began = time.monotonic()
        eventually_sync(lambda: time.monotonic() > began + 2, "the engine's clock, of whole seconds, to go on")
        with following(docker_engine.url) as seen:
            eventually_sync(lambda: seen.stopping == ["web-1"])
            container.kill("SIGKILL")
            stopped.result()
            eventually_sync(lambda: seen.names == [])


def test_a_restarted_container_is_not_being_stopped(docker_engine: DockerEngine) -> None:
    container = docker_engine.run("web-1", "busybox")
    for _ in range(3):
        container.restart()
    with following(docker_engine.url) as seen:
        container.rename("web-2")
        eventually_sync(lambda: seen.names == ["web-2"])
        assert not any(state.stopping for state in seen.states)
        container.restart()
        ports = {(80, "tcp"): ((docker_engine.address, docker_engine.port("web-2")),)}
        eventually_sync(lambda: seen.get("web-2").ports == ports and not seen.stopping, "the port that it has now")


def test_a_container_that_is_killed_or_ends_by_itself_is_gone(docker_engine: DockerEngine) -> None:
    with following(docker_engine.url) as seen:
        killed = docker_engine.run("killed", "busybox")
        shot = docker_engine.run("shot", "busybox")
        docker_engine.run("ends", "busybox", command=["/bin/busybox", "sleep", "0.5"])
        removed = docker_engine.run("removed", "busybox")
        eventually_sync(lambda: {"killed", "removed", "shot"} <= set(seen.names))
        killed.kill()
        removed.remove(force=True)
        shot.reload()
        os.kill(shot.attrs["State"]["Pid"], signal.SIGKILL)
        eventually_sync(lambda: seen.names == [])
        assert any("ends" in [container.name for container in state.containers] for state in seen.states)


def test_a_container_in_a_restart_loop_counts_only_while_it_runs(docker_engine: DockerEngine) -> None:
    with following(docker_engine.url) as seen:
        policy = {"Name": "always"}
        docker_engine.run("web-1", "busybox", command=["/bin/busybox", "false"], restart_policy=policy)
        again = docker_engine.run("web-2", "busybox", restart_policy=policy)
        eventually_sync(lambda: seen.names == ["web-2"] and seen.get("web-2").ports)
        port = docker_engine.port("web-2")
        again.reload()
        os.kill(again.attrs["State"]["Pid"], signal.SIGKILL)
        eventually_sync(lambda: docker_engine.port("web-2") != port, "Docker to start it again")
        port = docker_engine.port("web-2")
        eventually_sync(lambda: seen.get("web-2").ports[80, "tcp"][0].host_port == port)


def test_a_paused_container_is_marked(docker_engine: DockerEngine) -> None:
    container = docker_engine.run("web-1", "busybox")
    with following(docker_engine.url) as seen:
        container.pause()
        eventually_sync(lambda: seen.get("web-1").paused)
        container.unpause()
        eventually_sync(lambda: not seen.get("web-1").paused)


def test_health_as_docker_checks_it(docker_engine: DockerEngine) -> None:
    check = {"test": ["CMD", "/bin/busybox", "test", "-e", "/ok"], "interval": 10**9, "retries": 1}
    with following(docker_engine.url) as seen:
        container = docker_engine.run("web-1", "busybox", healthcheck=check)
        eventually_sync(lambda: seen.get("web-1").health == "unhealthy", timeout=20)
        container.exec_run(["/bin/busybox", "touch", "/ok"])
        eventually_sync(lambda: seen.get("web-1").health == "healthy", timeout=20)
        assert "starting" in [container.health for state in seen.states for container in state.containers]


def test_networks_that_are_joined_and_left(docker_engine: DockerEngine) -> None:
    docker_engine.network("inside")
    container = docker_engine.run("web-1", "busybox")
    api = docker_engine.client.api
    with following(docker_engine.url) as seen:
        api.connect_container_to_network(container.id, "inside")
        eventually_sync(lambda: set(seen.get("web-1").networks) == {"bridge", "inside"})
        assert seen.get("web-1").networks["inside"].ipv4
        api.disconnect_container_from_network(container.id, "bridge")
        eventually_sync(lambda: set(seen.get("web-1").networks) == {"inside"})
        api.disconnect_container_from_network(container.id, "inside")
        eventually_sync(lambda: seen.get("web-1").networks == {} and seen.get("web-1").ports == {})
        api.connect_container_to_network(container.id, "bridge")
        eventually_sync(lambda: seen.get("web-1").ports, "the port published again")
        assert seen.get("web-1").ports[80, "tcp"][0].host_port == docker_engine.port("web-1")
