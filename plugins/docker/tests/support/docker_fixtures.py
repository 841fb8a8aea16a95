"""Fixtures for tests of providers of containers: engines for each test process, etcd, and daemons.

An engine is emptied after each test. A test with `any_engine` runs on Docker and on Podman. A conftest imports the
fixtures that its tests use, and the hook.
"""

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol

import pytest
from daemons import Daemon, Starter, start_daemon, tmp_path
from docker_lab import DockerEngine, LinkedEngine
from engine_history import EngineHistory
from histories import RegistryHistory
from podman_lab import PodmanEngine

from discovery.system.embedded import EmbeddedEtcd
from discovery.testing import cannot_run, require_program

__all__ = [
    "_engine",
    "_etcd",
    "_live_restore_engine",
    "_main_engine",
    "_podman_engine",
    "_requirements",
    "any_engine",
    "docker_engine",
    "etcd",
    "events",
    "live_restore_engine",
    "plugin",
    "podman_engine",
    "provide",
    "pytest_collection_modifyitems",
    "registry",
    "start_daemon",
    "tmp_path",
]

_PROGRAMS = ("dockerd", "containerd", "apache2", "busybox", "ip", "iptables", "nsenter")
_ENGINES = frozenset({"docker_engine", "live_restore_engine", "podman_engine", "any_engine", "_main_engine"})


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test that uses an engine, and start the tests with the longest timeouts first."""
    for item in items:
        if _ENGINES & set(getattr(item, "fixturenames", ())):
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


@pytest.fixture(scope="session")
def _podman_engine(_requirements: None) -> Iterator[PodmanEngine]:
    for program in ("podman", "runc"):
        require_program(program, wheel=False)
    with PodmanEngine() as engine:
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


@pytest.fixture
def podman_engine(_podman_engine: PodmanEngine) -> Iterator[PodmanEngine]:
    """Return a running Podman with the images `apache` and `busybox` and without containers."""
    yield _podman_engine
    _podman_engine.restore()


@pytest.fixture(params=["docker", "podman"])
def any_engine(request: pytest.FixtureRequest) -> LinkedEngine:
    """Return a running Docker, and in another run of the test a running Podman."""
    engine: LinkedEngine = request.getfixturevalue(f"{request.param}_engine")
    return engine


@pytest.fixture
def _main_engine(request: pytest.FixtureRequest) -> LinkedEngine:
    """Return the engine of the test: the one that it asks for, or Docker."""
    names = ("any_engine", "podman_engine")
    engine: LinkedEngine = request.getfixturevalue(
        next((each for each in names if each in request.fixturenames), "docker_engine")
    )
    return engine


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
        engine: LinkedEngine | None = None,
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
    _main_engine: LinkedEngine, registry: RegistryHistory, start_daemon: Starter, plugin: tuple[str, str]
) -> Provide:
    """Return a function as in `Provide`. Two underscores separate the keys of a table: `docker__on_stop`."""
    name, url = plugin

    def provide(
        *arguments: str,
        engine: LinkedEngine | None = None,
        run_dir: Path | None = None,
        under: Iterable[str] = (),
        **options: object,
    ) -> Daemon:
        options = {url: (engine or _main_engine).url, **options}
        sets = (f"{name}.{key.replace('__', '.')}={json.dumps(value)}" for key, value in options.items())
        return start_daemon(
            *("--plugin", name, "--registry", registry.url),
            *(argument for each in sets for argument in ("--set", each)),
            *arguments,
            run_dir=run_dir,
            under=under,
        )

    return provide
