"""registrator itself on the same engine: the same services and addresses, and the differences of our page about it.

registrator writes to API v2 of an etcd 3.4, whose keys API v3, in which we write, does not show.
"""

import itertools
import json
import os
import socket
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from docker.errors import NotFound
from docker_fixtures import Provide
from docker_lab import DockerEngine
from etcd_versions import find_etcd
from go_toolchain import cached
from histories import RegistryHistory, place
from making import require_made
from registrator_build import NAME

from discovery.system.embedded import EmbeddedEtcd
from discovery.testing import eventually_sync, within

pytestmark = [pytest.mark.exhaustive, pytest.mark.timeout(600)]

Places = dict[str, str]
"""HOST:PORT by SERVICE/ID."""

HOST = socket.gethostname()
WEB, API = "registrator.invalid/team/web", "team/api"
"""Names of the image `busybox`, whose last part is the name of the service."""


class Run(NamedTuple):
    """A container: the ports that it publishes, `PORT` on one address, `*PORT` on all, `@PORT` on loopback; options."""

    name: str
    ports: str = "80"
    image: str = "busybox"
    label: str = ""
    variable: str = ""
    network: str | None = None


ALIKE = (
    Run("one"),
    Run("everywhere", "*80"),
    Run("two", "80 81"),
    Run("three", "80 81 *82"),
    Run("silent", ""),
    Run("tagged-image", image=f"{WEB}:2.4"),
    Run("other-image", "80 81", image=API),
    Run("named", label="SERVICE_NAME=shop"),
    Run("named-by-variable", "*80", variable="SERVICE_NAME=shop"),
    Run("label-first", label="SERVICE_NAME=label", variable="SERVICE_NAME=variable"),
    Run("two-named", "80 81", label="SERVICE_NAME=shop"),
    Run("one-of-two-named", "80 81", label="SERVICE_81_NAME=admin"),
    Run("both-named", "80 81", label="SERVICE_80_NAME=front SERVICE_81_NAME=back"),
    Run("name-of-port-first", label="SERVICE_80_NAME=of-port SERVICE_NAME=of-all"),
    Run("with-id", label="SERVICE_ID=first"),
    Run("with-id-of-port", "80 81", variable="SERVICE_80_ID=second"),
    Run("ignored", label="SERVICE_IGNORE=yes"),
    Run("ignored-by-variable", "80 81", variable="SERVICE_IGNORE=1"),
    Run("with-tags", label="SERVICE_TAGS=eu,canary SERVICE_REGION=eu-1"),
    Run("checked", label="SERVICE_CHECK_HTTP=/ SERVICE_CHECK_INTERVAL=1s"),
    Run("checked-by-tcp", variable="SERVICE_CHECK_TCP=true SERVICE_CHECK_INTERVAL=1s"),
    Run("composed", label="com.docker.compose.service=shop com.docker.compose.project=demo"),
    Run("on-own-network", network="own"),
    Run("on-hosts-network", "", network="host"),
)
_NUMBERS = itertools.count(20001)
"""Host ports, of which an engine of a test has all for itself."""
LIKE_KEYS = 29
"""The records of these."""

DIFFERENT = (
    Run("udp-too", "80 53/udp"),
    Run("udp-alone", "53/udp"),
    Run("port-ignored", "80 81", label="SERVICE_81_IGNORE=yes"),
    Run("on-loopback", "@80"),
    Run("wrong-name", label="SERVICE_NAME=a/b"),
    Run("paused"),
)
"""What the page names as different, and names that are none here."""

assert len(ALIKE + DIFFERENT) == 30


@pytest.fixture(scope="session")
def old_etcd() -> Iterator[EmbeddedEtcd]:
    """Return a running etcd 3.4 that has both API v2 and v3."""
    with EmbeddedEtcd("--enable-v2", program=find_etcd("3.4")) as running:
        yield running


@pytest.fixture
def etcd(old_etcd: EmbeddedEtcd) -> EmbeddedEtcd:
    """Return the etcd of both."""
    return old_etcd


@pytest.fixture
def theirs(etcd: EmbeddedEtcd, docker_engine: DockerEngine, tmp_path: Path) -> Iterator[Callable[[], Places]]:
    """Return a function that tells what registrator has registered. registrator is started at its first call."""
    program = require_made("registrator", cached(NAME), "make registrator")
    # It handles each event on a goroutine of its own, in no order: so it lists the containers again every 2 s.
    options = ("-ip", docker_engine.address, "-cleanup", "-resync", "2")
    command = [program, *options, f"etcd://{etcd.endpoint}/services"]
    environment = {**os.environ, "DOCKER_HOST": docker_engine.url}
    started: list[subprocess.Popen[bytes]] = []

    def places() -> Places:
        if not started:
            with (tmp_path / "registrator").open("wb") as log:
                started.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
        assert started[0].poll() is None, (tmp_path / "registrator").read_text()
        url = f"http://{etcd.endpoint}/v2/keys/services?recursive=true"
        with urllib.request.urlopen(url, timeout=within(10)) as answer:  # an error until the first is registered
            services = json.load(answer)["node"].get("nodes", ())
        found = [each for service in services for each in leaves(service)]
        return {str(each["key"]).removeprefix("/services/"): str(each["value"]) for each in found}

    yield places
    for process in started:
        process.terminate()
        process.wait(within(10))


def leaves(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the keys below a node of API v2."""
    if "value" in node:
        yield node
    for below in node.get("nodes", ()):
        yield from leaves(below)


@pytest.fixture
def start(docker_engine: DockerEngine) -> Iterator[Callable[[Run], None]]:
    """Return a function that starts a container."""
    for name, tag in ((WEB, "2.4"), (API, "latest")):
        docker_engine.client.images.get("busybox").tag(name, tag)

    def start(run: Run) -> None:
        ports = dict(published(port, docker_engine.address) for port in run.ports.split())
        variables, labels = (dict(each.split("=", 1) for each in given.split()) for given in (run.variable, run.label))
        docker_engine.run(
            *(run.name, run.image),
            publish=None,
            ports=ports,
            environment=variables,
            labels=labels,
            network=run.network,
        )

    docker_engine.network("own")
    yield start
    for name in (f"{WEB}:2.4", API):
        with suppress(NotFound):
            docker_engine.client.images.remove(name, force=True)


def published(port: str, address: str) -> tuple[str, tuple[str, int | None]]:
    """Return how the SDK writes that a port is published."""
    protocol = "" if "/" in port else "/tcp"
    if port.startswith("*"):  # a number of ours: Docker's may be taken already on one of all addresses
        return port[1:] + protocol, ("0.0.0.0", next(_NUMBERS))
    if port.startswith("@"):
        return port[1:] + protocol, ("127.0.0.1", None)
    return port + protocol, (address, None)


def of(runs: tuple[Run, ...], places: Places) -> Places:
    """Return the records of these containers, which may have ids of their own."""
    names = {run.name for run in runs}
    by_id = {"first": "with-id", "second": "with-id-of-port"}

    def container(key: str) -> str:
        id_ = key.rsplit("/", 1)[1]
        return by_id.get(id_) or id_.split(":")[1]

    return {key: value for key, value in places.items() if container(key) in names}


def test_the_same_containers_have_the_same_services_and_addresses(
    docker_engine: DockerEngine,
    registry: RegistryHistory,
    provide: Provide,
    theirs: Callable[[], Places],
    start: Callable[[Run], None],
) -> None:
    def ours() -> Places:
        return {key: place(record) for key, record in registry.records.items()}

    def settled(count: int, runs: tuple[Run, ...]) -> bool:
        one, other = of(runs, ours()), of(runs, theirs())
        return one == other and len(one) == count

    def agree(count: int, runs: tuple[Run, ...]) -> None:
        """Wait until both have the same `count` records of these containers."""
        with suppress(AssertionError):
            eventually_sync(lambda: settled(count, runs), timeout=60)
        one, other = of(runs, ours()), of(runs, theirs())
        assert one == other
        assert len(one) == count

    early, late = ALIKE[::2] + DIFFERENT, ALIKE[1::2]
    for run in early:
        start(run)
    provide(service_from="image", address=docker_engine.address)
    eventually_sync(theirs, "registrator to register", timeout=30)
    for run in late:
        start(run)
    agree(LIKE_KEYS, ALIKE)

    docker_engine.client.containers.get("paused").pause()
    registry.wait(lambda change: change.key == f"busybox/{HOST}:paused:80" and change.value is None)
    port = {run.name: docker_engine.port(run.name) for run in DIFFERENT if "80" in run.ports}
    address = docker_engine.address
    udp = {name: udp_port(docker_engine, name) for name in ("udp-too", "udp-alone")}
    assert of(DIFFERENT, theirs()) == {
        f"busybox-80/{HOST}:udp-too:80": f"{address}:{port['udp-too']}",
        f"busybox-53/{HOST}:udp-too:53:udp": f"{address}:{udp['udp-too']}",
        f"busybox/{HOST}:udp-alone:53:udp": f"{address}:{udp['udp-alone']}",
        f"busybox-80/{HOST}:port-ignored:80": f"{address}:{port['port-ignored']}",
        f"busybox/{HOST}:on-loopback:80": f"{address}:{port['on-loopback']}",
        f"a/b/{HOST}:wrong-name:80": f"{address}:{port['wrong-name']}",
        f"busybox/{HOST}:paused:80": f"{address}:{port['paused']}",
    }
    assert of(DIFFERENT, ours()) == {
        f"busybox/{HOST}:udp-too:80": f"{address}:{port['udp-too']}",
        f"busybox/{HOST}:port-ignored:80": f"{address}:{port['port-ignored']}",
    }

    left = of(ALIKE[::2], ours())
    for number, run in enumerate(late):  # a stop, a crash, a removal
        container = docker_engine.client.containers.get(run.name)
        match number % 3:
            case 0:
                container.stop(timeout=0)
            case 1:
                container.kill()
            case _:
                container.remove(force=True)
    agree(len(left), ALIKE)


def udp_port(engine: DockerEngine, name: str) -> int:
    """Return the host port of a container's port 53/udp."""
    bindings = engine.client.api.inspect_container(name)["NetworkSettings"]["Ports"]["53/udp"]
    return int(bindings[0]["HostPort"])
