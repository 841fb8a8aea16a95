"""Starting, stopping and dying Apache containers in the registry, by `discovery run --plugin apache`."""

import os
import re
import signal
import statistics
import subprocess
import threading
import time
import urllib.request
from pathlib import Path

import pytest
from docker_fixtures import Provide
from docker_lab import DockerEngine
from engine_history import EngineHistory
from histories import RegistryHistory, name_of

from discovery.testing import eventually_sync, free_port, require_program, within


def test_a_started_container_is_registered_within_a_second(
    docker_engine: DockerEngine, registry: RegistryHistory, events: EngineHistory, provide: Provide
) -> None:
    daemon = provide()
    eventually_sync(daemon.is_ready)
    delays = []
    for name in ("web-1", "web-2", "web-3"):
        docker_engine.run(name)
        registered = registry.wait(lambda change, name=name: name_of(change.key) == name)
        assert registered.value is not None
        assert registered.value["host"] == docker_engine.address
        assert registered.value["port"] == docker_engine.port(name)
        delays.append(registered.at - events.wait("start", name).at)
    print("start to registered:", delays)
    assert statistics.median(delays) <= 1
    assert daemon.stop() == 0
    assert registry.now() == {}


@pytest.mark.parametrize("how", ["docker kill", "kill -9"])
def test_a_killed_container_is_withdrawn_within_a_second(
    how: str, docker_engine: DockerEngine, registry: RegistryHistory, events: EngineHistory, provide: Provide
) -> None:
    names = ("web-1", "web-2", "web-3")
    for name in names:
        docker_engine.run(name)
    provide()
    registry.lists(*names)
    delays = []
    for name in names:
        if how == "docker kill":
            docker_engine.client.containers.get(name).kill()
        else:
            os.kill(docker_engine.pid(name), signal.SIGKILL)
        withdrawn = registry.wait(lambda change, name=name: name_of(change.key) == name and change.value is None)
        delays.append(withdrawn.at - events.wait("die", name).at)
    print("die to withdrawn:", delays)
    assert statistics.median(delays) <= 1


def test_stopping_gracefully_under_load_fails_no_request(
    docker_engine: DockerEngine, registry: RegistryHistory, provide: Provide, tmp_path: Path
) -> None:
    """Two containers are restarted in turn, by a daemon with both roles."""
    require_program("haproxy")
    load = Load(require_program("wrk", wheel=False), port := free_port())
    containers = {name: docker_engine.run(name, hostname=name) for name in ("web-1", "web-2")}
    daemon = provide("--plugin", "haproxy", "--set", f"haproxy.services.apache.bind=127.0.0.1:{port}")

    def serving() -> set[str]:
        return {answered_by(port) for _ in range(20)}

    eventually_sync(lambda: serving() == {"web-1", "web-2"}, timeout=20)
    with load:
        for stopped, other in (("web-1", "web-2"), ("web-2", "web-1")):
            containers[stopped].stop(timeout=20)
            registry.lists(other)
            eventually_sync(lambda other=other: serving() == {other}, timeout=20)
            containers[stopped].start()
            eventually_sync(lambda: serving() == {"web-1", "web-2"}, timeout=20)
    print(load.said)
    assert load.requests > 1000
    assert load.failed == 0
    assert daemon.stop() == 0


def test_sigkill_of_the_provider_withdraws_after_the_ttl(
    docker_engine: DockerEngine, registry: RegistryHistory, provide: Provide
) -> None:
    docker_engine.run("web-1")
    daemon = provide(ttl=2)
    registry.lists("web-1")
    daemon.process.kill()
    registry.lists()


def test_a_provider_killed_and_started_again_never_withdraws(
    docker_engine: DockerEngine, registry: RegistryHistory, provide: Provide, tmp_path: Path
) -> None:
    for name in ("web-1", "web-2"):
        docker_engine.run(name)
    daemon = provide(ttl=within(10), run_dir=tmp_path / "run")
    registry.lists("web-1", "web-2")
    docker_engine.run("web-3")
    registry.lists("web-1", "web-2", "web-3")
    before = leases(registry)
    daemon.process.kill()
    daemon.process.wait()
    docker_engine.client.containers.get("web-3").kill()
    daemon = provide(ttl=within(10), run_dir=tmp_path / "run")
    registry.lists("web-1", "web-2")
    eventually_sync(lambda: not leases(registry) & before, "the leases of the first run to end", timeout=30)
    assert registry.now().keys() == {"web-1", "web-2"}
    assert [name_of(change.key) for change in registry.changes if change.value is None] == ["web-3"]


def test_a_provider_suspended_past_its_ttl_registers_again_within_two_seconds(
    docker_engine: DockerEngine, registry: RegistryHistory, provide: Provide
) -> None:
    names = ("web-1", "web-2", "web-3")
    for name in names:
        docker_engine.run(name)
    daemon = provide(ttl=2)
    registry.lists(*names)
    delays = []
    for _ in range(3):
        daemon.process.send_signal(signal.SIGSTOP)
        registry.lists(timeout=30)
        count = len(registry.changes)
        daemon.process.send_signal(signal.SIGCONT)
        continued = time.time()
        registry.lists(*names)
        delays.append(max(change.at for change in registry.changes[count:]) - continued)
    print("SIGCONT to registered:", delays)
    assert statistics.median(delays) <= 2


@pytest.mark.timeout(240)
def test_after_a_minute_without_etcd_the_registry_is_right_within_two_seconds(
    docker_engine: DockerEngine, registry: RegistryHistory, provide: Provide
) -> None:
    containers = {name: docker_engine.run(name) for name in ("web-1", "web-2", "web-3", "web-4")}
    daemon = provide()
    registry.lists(*containers)
    registry.etcd.kill()
    away = threading.Event()
    clock = threading.Timer(60, away.set)
    clock.start()
    while not away.wait(1):
        containers["web-1"].stop(timeout=0)
        containers["web-1"].start()
    containers["web-2"].stop()
    containers["web-5"] = docker_engine.run("web-5")
    expected = {
        name: f"{docker_engine.address}:{docker_engine.port(name)}" for name in ("web-1", "web-3", "web-4", "web-5")
    }
    assert daemon.process.poll() is None
    registry.etcd.start()
    back = time.time()
    eventually_sync(lambda: registry.now() == expected, f"{expected}")
    delay = time.time() - back
    print("etcd back to registry right:", delay)
    assert delay <= 2


def leases(registry: RegistryHistory) -> set[str]:
    """Return the ids of all leases in etcd."""
    return set(registry.etcd.ctl("lease", "list").splitlines()[1:])


def answered_by(port: int) -> str:
    """Return the name of the container that answers at a port of this machine."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=within(5)) as answer:
        return str(answer.headers["X-Container"])


class Load:
    """Runs wrk in the background until the end of the block."""

    def __init__(self, wrk: Path, port: int) -> None:
        self._command = [str(wrk), "-t1", "-c8", "-d100s", "--timeout", "10s", f"http://127.0.0.1:{port}/"]
        self.said = ""

    def __enter__(self) -> None:
        self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, text=True)

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGINT)  # wrk then tells what it has
        self.said = self._process.communicate(timeout=within(30))[0]

    @property
    def requests(self) -> int:
        return self._number(r"(\d+) requests in")

    @property
    def failed(self) -> int:
        """Requests without an answer, or with an answer that is an error."""
        errors = re.findall(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", self.said)
        return sum(int(number) for line in errors for number in line) + self._number(r"Non-2xx or 3xx responses: (\d+)")

    def _number(self, pattern: str) -> int:
        found = re.search(pattern, self.said)
        return int(found[1]) if found else 0


def test_a_skipped_container_is_named_with_the_rule_that_skipped_it(
    docker_engine: DockerEngine, registry: RegistryHistory, provide: Provide
) -> None:
    """Point 18: in --dry-run, on the admin endpoint and in the debug log."""
    docker_engine.run("web-1")
    docker_engine.run("hidden", labels={"SERVICE_IGNORE": "1"})
    other = docker_engine.run("other", "busybox")
    rules = {
        "container hidden": "SERVICE_IGNORE is set",
        "container other": "the image 'busybox' is not an Apache image, and the container has no SERVICE_NAME",
    }
    dry = provide("--dry-run")
    assert dry.process.wait(within(60)) == 0
    said = dry.log.splitlines()
    assert said[0] == "# apache: 1 of 1 found would be registered"
    assert {line for line in said if line.startswith("~")} == {f"~ {what}: {rule}" for what, rule in rules.items()}
    daemon = provide(under=("env", "DISCOVERY_LOG_LEVEL=debug"))
    registry.lists("web-1")
    eventually_sync(lambda: daemon.provider("apache")["skipped"] == rules, timeout=20)
    for what, rule in rules.items():
        assert re.search(rf"skipped.*rule=.?{re.escape(rule)}.*what=.?{what}", daemon.log), daemon.log
    other.stop(timeout=1)
    eventually_sync(lambda: list(daemon.provider("apache")["skipped"]) == ["container hidden"], timeout=20)
    assert daemon.stop() == 0
