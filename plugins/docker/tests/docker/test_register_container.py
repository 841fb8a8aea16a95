"""`discovery register-container`, with the arguments of polvi/docker-register."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from docker_lab import DockerEngine, LinkedEngine
from histories import RegistryHistory

from discovery.system.embedded import EmbeddedEtcd
from discovery.testing import eventually_sync, within

ABSENT = "the container does not run; it is registered once it runs"


@dataclass
class Registering:
    """A running `discovery register-container`."""

    process: subprocess.Popen[bytes]
    log_path: Path

    @property
    def log(self) -> str:
        return self.log_path.read_text()

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(within(30))


Start = Callable[..., Registering]


@pytest.fixture
def start(tmp_path: Path, _main_engine: LinkedEngine) -> Iterator[Start]:
    """Return a function that starts the command with environment variables; the commands end with the test."""
    started: list[Registering] = []

    def start(*arguments: str, run_dir: Path | None = None, **variables: str) -> Registering:
        log_path = tmp_path / f"log-{len(started)}"
        command = [sys.executable, "-m", "discovery", "register-container", *arguments]
        environment = {**os.environ, "DOCKER_HOST": _main_engine.url, **variables}
        with log_path.open("wb") as log:
            process = subprocess.Popen(
                [*command, "--run-dir", str(run_dir or tmp_path / "run")],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
            )
        started.append(Registering(process, log_path))
        return started[-1]

    yield start
    for each in started:
        each.process.kill()
        each.process.wait()
        print(each.log)
        assert "Traceback" not in each.log


def becomes(registry: RegistryHistory, key: str, **fields: Any) -> None:
    def stands() -> bool:
        record = registry.records.get(key, {})
        return {name: record[name] for name in fields} == fields

    eventually_sync(stands, f"{key} to have {fields}", timeout=30)


def test_the_key_and_value_are_docker_registers_and_follow_the_container(
    start: Start, any_engine: LinkedEngine, etcd: EmbeddedEtcd
) -> None:
    with RegistryHistory(etcd, "/services") as registry:
        arguments = ("web-1", "80/tcp", "apache.service", "version=2", "zip=0123", "note=x=y z", "--ttl", "60")
        link = {"ETCD_PORT_10000_TCP_ADDR": "127.0.0.1", "ETCD_PORT_10000_TCP_PORT": str(etcd.port)}
        run = start(*arguments, **link)
        eventually_sync(lambda: ABSENT in run.log, timeout=30)
        any_engine.run("web-10")  # one of a like name
        any_engine.run("web-1", labels={"SERVICE_NAME": "other", "SERVICE_IGNORE": "1"})

        key, extras = "apache.service/web-1", {"version": 2, "zip": "0123", "note": "x=y z"}
        becomes(registry, key, host=any_engine.address, port=any_engine.port("web-1"), **extras)
        assert registry.records[key].keys() == {"host", "port", "version", "zip", "note", "owner", "ttl"}
        assert run.log.count(ABSENT) == 1

        any_engine.restart("web-1")
        becomes(registry, key, port=any_engine.port("web-1"))
        any_engine.client.containers.get("web-1").remove(force=True)
        eventually_sync(lambda: key not in registry.records, timeout=30)
        any_engine.run("web-1")
        becomes(registry, key, host=any_engine.address, port=any_engine.port("web-1"), **extras)
        assert run.stop() == 0
        eventually_sync(lambda: registry.records == {}, timeout=30)


def test_a_port_on_all_addresses_is_announced_at_a_usable_or_the_given_address(
    start: Start, docker_engine: DockerEngine, registry: RegistryHistory
) -> None:
    docker_engine.run("web-1", publish=None, ports={"80/tcp": None})
    port = docker_engine.port("web-1")
    start("web-1", "80", "chosen", "--host", docker_engine.address, "--registry", registry.url)
    start("web-1", "80", "local", "--host", "127.0.0.1", "--registry", registry.url)
    default = start("web-1", "80", "default", "--registry", registry.url)
    becomes(registry, "chosen/web-1", host=docker_engine.address, port=port)
    becomes(registry, "local/web-1", host="127.0.0.1", port=port)
    # This machine has an address that others can reach, or it is said that it has none.
    eventually_sync(lambda: "default/web-1" in registry.records or "set 'address'" in default.log, timeout=30)
    host = registry.records.get("default/web-1", {}).get("host", "")
    assert not host.startswith(("0.", "127.", "::"))


def test_a_port_that_is_not_published_is_reported(
    start: Start, docker_engine: DockerEngine, registry: RegistryHistory
) -> None:
    docker_engine.run("web-1")
    run = start("web-1", "8080", "web", "--registry", registry.url)
    eventually_sync(lambda: "container web-1" in run.log, timeout=30)
    assert "the container does not publish port 8080, only 80/tcp" in run.log
    assert run.process.poll() is None


def test_a_second_command_for_the_same_container_is_refused(
    start: Start, docker_engine: DockerEngine, registry: RegistryHistory
) -> None:
    docker_engine.run("web-1")
    first = start("web-1", "80", "web", "--registry", registry.url)
    becomes(registry, "web/web-1", port=docker_engine.port("web-1"))
    second = start("web-1", "80", "web", "--registry", registry.url)
    assert second.process.wait(within(30)) == 1
    assert f"process {first.process.pid}" in second.log
    assert first.stop() == 0


def test_a_key_of_another_owner_is_refused_unless_it_is_forced(
    start: Start, docker_engine: DockerEngine, registry: RegistryHistory, tmp_path: Path
) -> None:
    """Point 4."""
    docker_engine.run("web-1")
    arguments = ("web-1", "80", "web", "--registry", registry.url)
    start(*arguments, "--owner", "first")
    becomes(registry, "web/web-1", owner="first")
    refused = start(*arguments, "--owner", "second", run_dir=tmp_path / "second")
    eventually_sync(lambda: "'web/web-1' belongs to 'first'" in refused.log, timeout=30)
    start(*arguments, "--owner", "third", "--force", run_dir=tmp_path / "third")
    becomes(registry, "web/web-1", owner="third")
