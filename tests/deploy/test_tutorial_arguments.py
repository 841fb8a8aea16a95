"""The images in place of those of 2014, with the arguments and links of the tutorial's command lines."""

import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from docker.models.containers import Container
from docker_lab import DockerEngine
from histories import RegistryHistory
from relays import relayed

from discovery.system.embedded import EmbeddedEtcd
from discovery.testing import eventually_sync, free_port, within

SOCKET = "/var/run/docker.sock"
BAR_SECONDS = 3.0
"""From `docker run` to the record; here a bar for the printed figure, and ten times that for the test."""
BAR_MIB = 45
"""Of the registrar beside the two ambassadors, which share the pages of libraries: as the tutorial runs it."""
MOST_MIB_ALONE = 62
"""With all pages of libraries counted in full, of which grpc has 10 MiB, Python 5 and OpenSSL 4. Measured: 59."""

pytestmark = pytest.mark.timeout(300)  # the first test of a process waits for the images

Run = Callable[..., Container]


@pytest.fixture
def services(etcd: EmbeddedEtcd) -> Iterator[RegistryHistory]:
    """Return the history of the records that the tutorial's commands write, which name no prefix."""
    etcd.ctl("del", "--prefix", "/services/")
    with RegistryHistory(etcd, prefix="/services") as history:
        yield history
    etcd.ctl("del", "--prefix", "/services/")


@pytest.fixture
def at_the_gateway(images: DockerEngine, etcd: EmbeddedEtcd) -> Iterator[str]:
    """Return the HOST:PORT at which containers reach etcd."""
    with relayed(images.gateway, etcd.port) as relay:
        yield relay


@pytest.fixture
def run(images: DockerEngine) -> Run:
    """Return a function that runs an image of ours: a name, the image, its arguments, options of `docker run`."""

    def run(name: str, image: str, *arguments: str, **options: object) -> Container:
        return images.run(name, f"polvi/{image}", publish=None, command=list(arguments), **options)

    return run


def process_of(engine: DockerEngine, name: str) -> Path:
    """Return the directory in /proc of the program that process 1 of a container runs."""
    children = Path(f"/proc/{engine.pid(name)}/task/{engine.pid(name)}/children")
    return Path("/proc", eventually_sync(lambda: children.read_text().split(), "process 1 to run the program")[0])


def proportional_set_size(process: Path) -> float:
    """Return the PSS in MiB."""
    lines = (process / "smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def test_the_command_lines_of_2014_serve_the_page(
    images: DockerEngine, services: RegistryHistory, at_the_gateway: str, run: Run
) -> None:
    """Also the bar of 45 MiB (PSS) for the registrar."""
    run("apache-1", "apache", ports={"80/tcp": (images.address, None)})
    run("etcd-amb", "simple-amb", at_the_gateway)
    volumes = {str(images.socket): {"bind": SOCKET, "mode": "rw"}}
    run("register", "docker-register", "apache-1", "80", "apache", volumes=volumes, links={"etcd-amb": "etcd"})
    added = services.wait(lambda change: change.value is not None, timeout=60)
    assert added.key == "apache/apache-1"
    assert added.value is not None
    assert (added.value["host"], added.value["port"]) == (images.address, images.port("apache-1"))
    port = free_port()
    run(
        *("backend-amb", "dynamic-etcd-amb", "apache", "8080"),
        links={"etcd-amb": "etcd"},
        ports={"8080/tcp": (images.address, port)},
    )

    def page() -> bytes:
        with urllib.request.urlopen(f"http://{images.address}:{port}/", timeout=within(30)) as answer:
            return bytes(answer.read())

    def served() -> bool:
        try:
            return page() == b"hello from apache\n"
        except OSError:  # the ambassador does not listen yet
            return False

    eventually_sync(served, "the page behind the ambassador", timeout=60)
    size = proportional_set_size(process_of(images, "register"))
    print(f"{size:.1f} MiB (PSS) beside two ambassadors; the bar is {BAR_MIB} MiB")
    assert size <= BAR_MIB

    register = images.client.containers.get("register")
    register.stop(timeout=int(within(30)))
    assert register.wait()["StatusCode"] == 0
    services.wait(lambda change: change.key == "apache/apache-1" and change.value is None)


def test_a_container_is_registered_soon_with_the_rights_of_the_socket_alone(
    images: DockerEngine, services: RegistryHistory, at_the_gateway: str, run: Run
) -> None:
    """The bar: registered 3 s after `docker run`."""
    run("apache-1", "apache", ports={"80/tcp": (images.address, None)})
    volumes = {str(images.socket): {"bind": SOCKET, "mode": "rw"}}
    environment = {"DISCOVERY_REGISTRY": f"etcd://{at_the_gateway}"}
    began = time.time()
    run("register", "docker-register", "apache-1", "80", "apache", volumes=volumes, environment=environment)
    added = services.wait(lambda change: change.value is not None and change.at > began, timeout=60)
    process = process_of(images, "register")
    size = proportional_set_size(process)
    print(f"registered after {added.at - began:.2f} s; the bar is {BAR_SECONDS:g} s")
    print(f"{size:.1f} MiB (PSS), alone with its libraries")
    assert added.at - began < within(10 * BAR_SECONDS)
    assert size < MOST_MIB_ALONE

    group = str(images.socket.stat().st_gid)
    status = dict(line.split(":\t", 1) for line in (process / "status").read_text().splitlines() if ":\t" in line)
    assert status["Uid"].split() == ["65532"] * 4
    assert status["Groups"].split() == [group]
    assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 0
