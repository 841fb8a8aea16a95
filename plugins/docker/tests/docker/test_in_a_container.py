"""`discovery register-container` in a container: its announced address, and the owner that outlives the container."""

import io
import re
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from docker.models.containers import Container
from docker_lab import DockerEngine
from histories import RegistryHistory
from relays import relayed

from discovery.system.embedded import EmbeddedEtcd
from discovery.testing import eventually_sync

ROOT = Path(__file__).parents[4]
SOCKET = "/run/docker.sock"

RunInside = Callable[..., Container]


def root_of_programs() -> bytes:
    """Return an image for programs of this machine, whose directory /usr the container gets as a volume."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        for name in ("usr", "run", "tmp", "etc", "root"):
            directory = tarfile.TarInfo(name)
            directory.type, directory.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(directory)
        for name in ("bin", "sbin", "lib", "lib64"):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.SYMTYPE, f"usr/{name}"
            tar.addfile(link)
    return data.getvalue()


@pytest.fixture
def registry_url(docker_engine: DockerEngine, registry: RegistryHistory, etcd: EmbeddedEtcd) -> Iterator[str]:
    """Return the URL of the registry for containers, which reach etcd through a relay."""
    with relayed(docker_engine.gateway, etcd.port) as relay:
        yield f"etcd://{relay}{registry.prefix}"


@pytest.fixture
def run_inside(docker_engine: DockerEngine, registry_url: str) -> RunInside:
    """Return a function that runs `discovery` in a container of a name, which can use the engine."""
    docker_engine.client.api.import_image_from_data(root_of_programs(), repository="programs")
    places = {str(Path(place).resolve()) for place in ("/usr", sys.prefix, sys.base_prefix, ROOT)}
    volumes: dict[str, Any] = {
        place: {"bind": place, "mode": "ro"}
        for place in places
        if not any(place != other and Path(place).is_relative_to(other) for other in places)
    }
    volumes[str(docker_engine.socket)] = {"bind": SOCKET, "mode": "rw"}
    environment = {"DOCKER_HOST": f"unix://{SOCKET}", "DISCOVERY_REGISTRY": registry_url}

    def run(name: str, *arguments: str, **options: Any) -> Container:
        command = [sys.executable, "-m", "discovery", *arguments]
        options = {"environment": environment, "volumes": volumes, "publish": None, **options}
        return docker_engine.run(name, "programs", command=command, **options)

    return run


def log_of(container: Container) -> str:
    return str(container.logs().decode())


def leases(etcd: EmbeddedEtcd) -> set[str]:
    return set(etcd.ctl("lease", "list").splitlines()[1:])


def test_its_own_address_is_not_announced_and_its_owner_outlives_the_container(
    docker_engine: DockerEngine, registry: RegistryHistory, etcd: EmbeddedEtcd, run_inside: RunInside
) -> None:
    docker_engine.run("web-1", "busybox", publish="0.0.0.0")
    arguments = ("register-container", "web-1", "80", "web", "--ttl", "15")  # longer than a start takes
    registrar = run_inside("registrar", *arguments)
    eventually_sync(lambda: "in the container 'registrar'" in log_of(registrar), "it to be told", timeout=60)
    assert "set 'address' (register-container: --host)" in log_of(registrar)
    registrar.remove(force=True)
    assert registry.changes == []

    arguments = (*arguments, "--host", docker_engine.address)
    registrar = run_inside("registrar", *arguments)
    first = registry.wait(lambda change: change.key == "web/web-1", timeout=60)
    assert first.value is not None
    assert (first.value["host"], first.value["port"]) == (docker_engine.address, docker_engine.port("web-1"))
    assert re.match(r"[0-9a-f]{16}-registrar/container-web-web-1-", first.value["owner"])

    before = leases(etcd)
    registrar.remove(force=True)  # by SIGKILL
    run_inside("registrar", *arguments)
    second = registry.wait(lambda change: change.key == "web/web-1", after=1, timeout=60)
    assert second.value is not None
    assert second.value["owner"] == first.value["owner"]
    eventually_sync(lambda: not before & leases(etcd), "the first lease to end", timeout=60)
    assert [change.value is None for change in registry.changes] == [False, False]


def test_a_backend_is_named_after_the_machine_and_not_after_the_container(
    docker_engine: DockerEngine, registry: RegistryHistory, run_inside: RunInside
) -> None:
    docker_engine.run("web-1", "busybox")
    run_inside("registrar", "run", "--plugin", "docker", "--admin", "off")
    registered = registry.wait(lambda change: ":web-1:" in change.key, timeout=60)
    assert registered.key == f"busybox/{docker_engine.client.info()['Name']}:web-1:80"
