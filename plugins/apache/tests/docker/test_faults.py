"""Faults of Docker and of containers: each is reported in a line, and other containers are not affected."""

import os
import signal

from daemons import Daemon
from docker_fixtures import Provide
from docker_lab import DockerEngine
from histories import RegistryHistory, name_of

from discovery.testing import eventually_sync, require_program


def lines(daemon: Daemon, *words: str) -> list[str]:
    """Return the log lines that contain all the words."""
    return [line for line in daemon.log.splitlines() if all(word in line for word in words)]


def test_an_absent_engine_is_named_and_awaited(
    docker_engine: DockerEngine, registry: RegistryHistory, provide: Provide
) -> None:
    docker_engine.kill()
    docker_engine.socket.unlink()
    daemon = provide()
    eventually_sync(lambda: lines(daemon, str(docker_engine.socket)), "a line about the socket")
    eventually_sync(lambda: daemon.get("/healthz")[0] == 503)
    docker_engine.start()
    docker_engine.run("web-1")
    registry.lists("web-1")
    eventually_sync(lambda: daemon.get("/healthz")[0] == 200)
    assert len(lines(daemon, str(docker_engine.socket), "No such file")) <= 1
    assert "Traceback" not in daemon.log


def test_a_socket_without_permission_is_named_and_the_daemon_runs(
    docker_engine: DockerEngine, registry: RegistryHistory, provide: Provide
) -> None:
    """The daemon has the rights of an ordinary user, and another user owns the socket."""
    require_program("setpriv", wheel=False)
    docker_engine.run("web-1")
    os.chown(docker_engine.socket, 65534, 65534)
    docker_engine.socket.chmod(0o660)
    capabilities = "-dac_override,-dac_read_search"
    daemon = provide(under=("setpriv", f"--bounding-set={capabilities}", f"--inh-caps={capabilities}"))
    told = eventually_sync(lambda: lines(daemon, str(docker_engine.socket)), "a line about the socket")
    assert "may not use the Docker engine" in told[0], told
    eventually_sync(lambda: daemon.get("/healthz")[0] == 503)
    assert registry.records == {}
    os.chown(docker_engine.socket, os.geteuid(), 65534)
    registry.lists("web-1")
    assert len(lines(daemon, "may not use")) == 1, daemon.log
    assert "Traceback" not in daemon.log


def test_invalid_containers_are_named_once_and_others_are_registered(
    docker_engine: DockerEngine, registry: RegistryHistory, provide: Provide
) -> None:
    docker_engine.run("bad-name", labels={"SERVICE_NAME": "no spaces\nallowed"})
    docker_engine.run("bad-forbidden", labels={"SERVICE_NAME": "database"})
    docker_engine.run("bad-port", publish=None)
    docker_engine.run("bad-loopback", publish="127.0.0.1")
    docker_engine.run("odd-interval", labels={"SERVICE_CHECK_INTERVAL": "soon"})
    docker_engine.run("odd-host", labels={"SERVICE_CHECK_HTTP": "//169.254.169.254/latest"})
    docker_engine.run("odd-command", labels={"SERVICE_CHECK_SCRIPT": "touch /tmp/owned"})
    docker_engine.run("ignored", labels={"SERVICE_IGNORE": "yes"})
    docker_engine.run("good")
    daemon = provide(services=["apache*"])
    registry.lists("odd-interval", "odd-host", "odd-command", "good")
    docker_engine.run("later")
    registry.lists("odd-interval", "odd-host", "odd-command", "good", "later")
    for name, said in (
        ("bad-name", "SERVICE_NAME"),
        ("bad-forbidden", "database"),
        ("bad-port", "port 80"),
        ("bad-loopback", "127.0.0.1"),
        ("odd-interval", "SERVICE_CHECK_INTERVAL"),
        ("odd-host", "SERVICE_CHECK_HTTP"),
        ("odd-command", "SERVICE_CHECK_SCRIPT"),
    ):
        told = lines(daemon, f"container {name}")
        assert len(told) == 1, f"{name}: {told}"
        assert said in told[0], told
    assert not lines(daemon, "container ignored")
    assert daemon.get("/healthz")[0] == 200
    assert "Traceback" not in daemon.log


def test_containers_end_with_dockerd_and_come_back(
    docker_engine: DockerEngine, registry: RegistryHistory, provide: Provide
) -> None:
    containers = {name: docker_engine.run(name) for name in ("web-1", "web-2")}
    provide()
    registry.lists(*containers)
    docker_engine.kill()
    docker_engine.start()
    registry.lists()
    containers["web-2"].start()
    registry.lists("web-2")
    assert registry.places == {"web-2": f"{docker_engine.address}:{docker_engine.port('web-2')}"}


def test_with_live_restore_only_containers_that_ended_are_withdrawn(
    live_restore_engine: DockerEngine, registry: RegistryHistory, provide: Provide
) -> None:
    containers = {name: live_restore_engine.run(name) for name in ("web-1", "web-2")}
    daemon = provide(engine=live_restore_engine)
    registry.lists(*containers)
    pid = live_restore_engine.pid("web-1")
    live_restore_engine.kill()
    os.kill(pid, signal.SIGKILL)
    live_restore_engine.start()
    registry.lists("web-2")
    assert [change.value is None for change in registry.of("web-2")] == [False]
    live_restore_engine.run("web-3")
    registry.lists("web-2", "web-3")
    assert daemon.process.poll() is None


def test_a_hanging_dockerd_is_reported_and_withdraws_nothing(
    docker_engine: DockerEngine, registry: RegistryHistory, provide: Provide
) -> None:
    names = ("web-1", "web-2")
    for name in names:
        docker_engine.run(name)
    daemon = provide(ttl=2)
    registry.lists(*names)
    pid = docker_engine.pid("web-1")
    docker_engine.suspend()
    hung = eventually_sync(lambda: daemon.provider("apache")["problems"], "the hung engine to be noticed", timeout=30)
    assert "not responding" in hung["docker"]
    assert registry.now().keys() == set(names)
    os.kill(pid, signal.SIGKILL)
    docker_engine.resume()
    registry.lists("web-2", timeout=30)
    docker_engine.run("web-3")
    registry.lists("web-2", "web-3")
    eventually_sync(lambda: daemon.provider("apache")["problems"] == {})
    assert [change.value is None for change in registry.of("web-2")] == [False]


def test_a_paused_container_is_withdrawn_until_it_is_unpaused(
    docker_engine: DockerEngine, registry: RegistryHistory, provide: Provide
) -> None:
    container = docker_engine.run("web-1")
    docker_engine.run("web-2")
    provide()
    registry.lists("web-1", "web-2")
    container.pause()
    registry.lists("web-2")
    container.unpause()
    registry.lists("web-1", "web-2")


def test_a_disconnected_container_is_withdrawn_until_it_has_a_new_port(
    docker_engine: DockerEngine, registry: RegistryHistory, provide: Provide
) -> None:
    docker_engine.run("web-1")
    provide()
    registry.lists("web-1")
    bridge = docker_engine.client.networks.get("bridge")
    bridge.disconnect("web-1")
    registry.lists()
    docker_engine.run("web-2")  # has the port, maybe
    bridge.connect("web-1")
    registry.lists("web-1", "web-2")
    eventually_sync(
        lambda: (
            registry.places
            == {name: f"{docker_engine.address}:{docker_engine.port(name)}" for name in ("web-1", "web-2")}
        )
    )


def test_a_restarted_container_is_registered_at_its_new_port(
    docker_engine: DockerEngine, registry: RegistryHistory, provide: Provide
) -> None:
    container = docker_engine.run("web-1")
    provide()
    registry.lists("web-1")
    before = registry.places["web-1"]
    container.restart(timeout=5)
    place = f"{docker_engine.address}:{docker_engine.port('web-1')}"
    eventually_sync(lambda: registry.places == {"web-1": place})
    assert place != before


def test_draining_before_stopping(docker_engine: DockerEngine, registry: RegistryHistory, provide: Provide) -> None:
    container = docker_engine.run("web-1")
    provide(docker__on_stop="drain")
    registry.lists("web-1")
    container.stop(timeout=20)
    registry.lists()
    states = [change.value and change.value.get("state", "active") for change in registry.of("web-1")]
    assert states == ["active", "draining", None]


def test_withdrawn_when_stopping_begins(
    docker_engine: DockerEngine, registry: RegistryHistory, provide: Provide
) -> None:
    """A container that stops slowly is not registered during the stop."""
    container = docker_engine.run("web-1", stop_signal="SIGUSR2")  # which httpd does not heed
    provide()
    registry.lists("web-1")
    docker_engine.client.api.kill("web-1", "SIGUSR2")
    withdrawn = registry.wait(lambda change: change.value is None)
    container.reload()
    assert container.status == "running"
    assert name_of(withdrawn.key) == "web-1"
