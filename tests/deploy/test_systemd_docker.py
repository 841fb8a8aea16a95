"""The units of `deploy/systemd-docker`, booted: the tutorial's six containers, whose companions come back.

The images are made of this tree by bind mounts, with the entry points of `deploy/images`.
"""

import io
import os
import re
from collections.abc import Iterator
from functools import partial

import pytest
from booted import (
    DEPLOY,
    DOCKER_GROUP,
    IMAGE,
    PROGRAM,
    Booted,
    import_image,
    program_places,
    registry_url,
    unit_files,
)
from docker_fixtures import _engine, _etcd, _requirements, docker_engine, etcd, registry
from docker_lab import DockerEngine
from histories import RegistryHistory
from requesting import Requests

from discovery.testing import eventually_sync

__all__ = ["_engine", "_etcd", "_requirements", "docker_engine", "etcd", "registry", "registry_url"]

pytestmark = [pytest.mark.docker, pytest.mark.timeout(300)]

COMMANDS = {"simple-amb": "forward", "docker-register": "register-container", "dynamic-etcd-amb": "ambassador"}
COMPANIONS = ("apache-register", "backend-amb", "haproxy")
HAPROXY = DEPLOY / "systemd-docker/examples/haproxy.cfg"
UNITS = sorted((DEPLOY / "systemd-docker").glob("*.service"))


def build_images(engine: DockerEngine) -> None:
    import_image(engine)
    for name, command in COMMANDS.items():
        lines = [f"FROM {IMAGE}", "EXPOSE 10000" * (name == "simple-amb"), f'ENTRYPOINT ["/{PROGRAM}", "{command}"]']
        engine.client.images.build(fileobj=io.BytesIO("\n".join(lines).encode()), tag=name, rm=True)
    engine.client.images.get(IMAGE).tag("haproxy")
    engine.client.images.get("busybox").tag("apache")


def as_run_here(unit: str, engine: DockerEngine) -> str:
    """Return a unit whose container has the programs that its image lacks, and files where the engine sees them."""
    volumes = "".join(f" --volume {here}:{there}:ro" for here, there in program_places().items())
    unit = re.sub(r"^(ExecStart=/usr/bin/docker run)(?!.* apache$)", rf"\1{volumes}", unit, flags=re.MULTILINE)
    unit = unit.replace("--volume /run/docker.sock:", f"--volume {engine.socket}:")
    return unit.replace("--volume /etc/haproxy/haproxy.cfg:", f"--volume {HAPROXY}:")


@pytest.fixture
def machine(docker_engine: DockerEngine, registry_url: str) -> Iterator[Booted]:
    """Boot a machine with the units of both machines; the engine is its own."""
    build_images(docker_engine)
    etcd = registry_url.removeprefix("etcd://").partition("/")[0]
    files = {f"/etc/systemd/system/{path.name}": as_run_here(path.read_text(), docker_engine) for path in UNITS} | {
        "/etc/environment": f"COREOS_PRIVATE_IPV4={docker_engine.address}\nETCD={etcd}\n",
    }
    with Booted(docker_engine, files, {str(docker_engine.socket): "/run/docker.sock"}) as booted:
        yield booted


@pytest.mark.parametrize(
    ("unit", "companion"),
    [
        ("etcd-amb", "backend-amb"),
        pytest.param("apache", "apache-register", marks=pytest.mark.exhaustive),
        pytest.param("backend-amb", "haproxy", marks=pytest.mark.exhaustive),
    ],
)
def test_companions_come_back_with_their_main_unit(
    machine: Booted, docker_engine: DockerEngine, unit: str, companion: str
) -> None:
    requests = Requests((machine.address, 80), "web", "hello from busybox\n")

    def served(after: str) -> None:
        eventually_sync(requests.serves, f"the page after {after}", timeout=60)
        # A record that was not withdrawn serves while its registrar is still being started.
        units = ("etcd-amb", "apache", *COMPANIONS)
        eventually_sync(lambda: all(map(machine.is_active, units)), f"{units} to be active after {after}", timeout=60)

    machine.systemctl("enable", "apache-register", "backend-amb")
    machine.systemctl("start", "etcd-amb", "apache")  # which start their companions
    served("the start")
    anew = partial(machine.runs_anew, companion, machine.main_pid(companion))
    docker_engine.client.api.kill(unit, "SIGKILL")
    eventually_sync(anew, f"{companion} to be started again", timeout=60)
    served("a crash")
    machine.systemctl("stop", unit)
    assert not machine.is_active(companion)
    machine.systemctl("start", unit)
    served("a start after a stop")


@pytest.fixture
def registrar(docker_engine: DockerEngine, registry_url: str) -> Iterator[Booted]:
    """Boot a machine with the registrar of containers of `deploy/systemd`; its group docker has the engine."""
    os.chown(docker_engine.socket, 0, DOCKER_GROUP)
    docker_engine.socket.chmod(0o660)
    files = unit_files() | {
        "/etc/discovery/environment": f"DISCOVERY_REGISTRY={registry_url}\n",
        "/etc/discovery/register-container/web.env": (
            "CONTAINER=web-1\nPORT=80\nSERVICE=web\nLABELS=version=2 zone=a\nOPTIONS=--ttl 60s\n"
        ),
    }
    with Booted(docker_engine, files, {str(docker_engine.socket): "/run/docker.sock"}) as booted:
        yield booted


def test_a_container_stays_registered_over_a_restart_and_is_withdrawn_by_a_stop(
    registrar: Booted, docker_engine: DockerEngine, registry: RegistryHistory
) -> None:
    unit = "discovery-register-container@web"
    docker_engine.run("web-1", "busybox")
    registrar.systemctl("start", unit)
    first = registry.wait(lambda change: change.key == "web/web-1", timeout=60)
    assert first.value is not None
    assert (first.value["host"], first.value["port"]) == (docker_engine.address, docker_engine.port("web-1"))
    assert (first.value["version"], first.value["zone"]) == (2, "a")
    registrar.systemctl("restart", unit)
    registry.wait(lambda change: change.key == "web/web-1", after=1, timeout=60)  # under a lease of its own
    registrar.systemctl("stop", unit)
    last = registry.wait(lambda change: change.value is None)
    assert last is registry.changes[-1]
