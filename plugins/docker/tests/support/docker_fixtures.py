"""Fixtures for tests of providers of containers: a Docker engine for each test process, etcd, and daemons.

The engine is emptied after each test. A conftest imports the fixtures that its tests use, and the hook.
"""

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol

import pytest
from daemons import Daemon, Starter, start_daemon, tmp_path
from docker_lab import DockerEngine
from engine_history import EngineHistory
from histories import RegistryHistory

from discovery.system.embedded import EmbeddedEtcd
from discovery.testing import cannot_run, require_program

__all__ = [
    "_engine",
    "_etcd",
    "_live_restore_engine",
    "_requirements",
    "docker_engine",
    "etcd",
    "events",
    "live_restore_engine",
    "plugin",
    "provide",
    "pytest_collection_modifyitems",
    "registry",
    "start_daemon",
    "tmp_path",
]

_PROGRAMS = ("dockerd", "containerd", "apache2", "busybox", "ip", "iptables", "nsenter")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test that uses an engine, and start the tests with the longest timeouts first."""
    for item in items:
        if {"docker_engine", "live_restore_engine"} & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.docker)
    items.sort(key=_patience, reverse=True)


def _patience(item: pytest.Item) -> float:
    timeout = item.get_closest_marker("timeout")
    return float(timeout.args[0]) if timeout and item.get_closest_marker("docker") else 0.0


@pytest.fixture(scope="session")
def _requirements() -> None:
    """Skip the test, or fail in CI, if no engine can be started."""
    for program in _PROGRAMS:
        require_program(program, wheel=False)
    if os.geteuid() != 0:
        cannot_run("only root can start a Docker engine: sudo make test-docker")


@pytest.fixture(scope="session")
def _engine(_requirements: None) -> Iterator[DockerEngine]:
    with DockerEngine() as engine:
        yield engine


@pytest.fixture(scope="session")
def _live_restore_engine(_requirements: None) -> Iterator[DockerEngine]:
    with DockerEngine(live_restore=True) as engine:
        yield engine


@pytest.fixture
def docker_engine(_engine: DockerEngine) -> Iterator[DockerEngine]:
    """Return a running dockerd with the images `apache` and `busybox` and without containers."""
    yield _engine
    _engine.restore()


@pytest.fixture
def live_restore_engine(_live_restore_engine: DockerEngine) -> Iterator[DockerEngine]:
    """Return a running dockerd whose containers outlive a crash of dockerd."""
    yield _live_restore_engine
    _live_restore_engine.restore()


@pytest.fixture(scope="session")
def _etcd() -> Iterator[EmbeddedEtcd]:
    with EmbeddedEtcd() as running:
        yield running


@pytest.fixture
def etcd(_etcd: EmbeddedEtcd) -> Iterator[EmbeddedEtcd]:
    """Return a running etcd; the fixture `registry` has a prefix of its own there."""
    yield _etcd
    if not _etcd.running:
        _etcd.start()


@pytest.fixture
def registry(etcd: EmbeddedEtcd) -> Iterator[RegistryHistory]:
    """Return the history of an empty registry."""
    with RegistryHistory(etcd) as history:
        yield history


@pytest.fixture
def events(docker_engine: DockerEngine) -> Iterator[EngineHistory]:
    """Return the history of the containers' events."""
    with EngineHistory(docker_engine.new_client()) as history:
        yield history


class Provide(Protocol):
    """Starts `discovery run` with the plugin; options of the plugin by name, and arguments of the command."""

    def __call__(
        self,
        *arguments: str,
        engine: DockerEngine | None = None,
        run_dir: Path | None = None,
        under: Iterable[str] = (),
        **options: object,
    ) -> Daemon: ...


@pytest.fixture
def plugin() -> tuple[str, str]:
    """Return the name of the provider that `provide` starts, and the key of the engine's URL in its options."""
    return "docker", "url"


@pytest.fixture
def provide(
    docker_engine: DockerEngine, registry: RegistryHistory, start_daemon: Starter, plugin: tuple[str, str]
) -> Provide:
    """Return a function as in `Provide`. Two underscores separate the keys of a table: `docker__on_stop`."""
    name, url = plugin

    def provide(
        *arguments: str,
        engine: DockerEngine | None = None,
        run_dir: Path | None = None,
        under: Iterable[str] = (),
        **options: object,
    ) -> Daemon:
        options = {url: (engine or docker_engine).url, **options}
        sets = (f"{name}.{key.replace('__', '.')}={json.dumps(value)}" for key, value in options.items())
        return start_daemon(
            *("--plugin", name, "--registry", registry.url),
            *(argument for each in sets for argument in ("--set", each)),
            *arguments,
            run_dir=run_dir,
            under=under,
        )

    return provide
