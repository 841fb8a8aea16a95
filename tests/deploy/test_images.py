"""The images of `make images`: what they are, and how a container of each starts, tells its health and stops."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from docker.models.containers import Container
from docker_lab import DockerEngine
from requests.exceptions import RequestException

from discovery.testing import eventually_sync, within

BUILD = Path(__file__).parents[2] / "deploy/images/build.py"
PRODUCT = ("discovery", "docker-register", "simple-amb", "dynamic-etcd-amb", "haproxy")
MOST_BYTES = 150_000_000
SOCKET = "/var/run/docker.sock"
STATUS = "print(open('/proc/self/status').read())"
GIVE_UP_ROOT = ["/usr/bin/python3", "-I", "-S", "/opt/discovery/libexec/socket_group.py"]
NOBODY_ANSWERS = "198.51.100.1:4001"
"""An address of a network for documents (RFC 5737)."""

pytestmark = pytest.mark.timeout(300)  # the first test of a process waits for the images


def test_each_image_is_small_and_has_a_health_check_volumes_and_a_user(images: DockerEngine) -> None:
    found = {name: images.client.images.get(f"polvi/{name}").attrs for name in (*PRODUCT, "apache")}
    print({name: f"{each['Size'] / 1e6:.0f} MB" for name, each in found.items()})
    for name in PRODUCT:
        config = found[name]["Config"]
        assert found[name]["Size"] < MOST_BYTES
        assert config["Healthcheck"]["Test"][-1] == "health"
        assert set(config["Volumes"]) == {"/run/discovery", "/var/lib/discovery"}
        # The one that starts as root gives it up, as the tests below show.
        assert config["User"] == ("0:0" if name == "docker-register" else "65532:65532")
    assert found["simple-amb"]["Config"]["ExposedPorts"] == {"10000/tcp": {}}


def test_a_build_that_is_ended_leaves_no_image_of_its_own(images: DockerEngine, layout: Path) -> None:
    def of_builds() -> list[str]:
        tags = [tag for image in images.client.images.list() for tag in image.tags]
        return [tag for tag in tags if tag.startswith("localhost/discovery-layout:")]

    assert of_builds() == []
    command = [sys.executable, BUILD, "build", "--prefix", "ended/", "--layout", layout]
    process = subprocess.Popen(command, env={**os.environ, "DOCKER_HOST": images.url})
    try:
        eventually_sync(lambda: of_builds() != [] or process.poll() is not None, "the root file systems", timeout=60)
        process.terminate()
        assert process.wait(within(60)) == 128 + signal.SIGTERM
    finally:
        process.kill()
    eventually_sync(lambda: of_builds() == [], "no image of the build", timeout=20)


def state_of(container: Container) -> Any:
    container.reload()
    return container.attrs["State"]


def stopped(container: Container) -> tuple[int, float]:
    """Return the exit code after `docker stop`, and the seconds that it took. What does not stop is killed: 137."""
    began = time.monotonic()
    container.stop(timeout=int(within(30)))
    return int(state_of(container)["ExitCode"]), time.monotonic() - began


def test_a_container_with_nothing_but_its_volumes_is_healthy_and_stops_in_order(images: DockerEngine) -> None:
    """The root file system is read-only, and no capability is left."""
    often = {"interval": 500_000_000, "timeout": int(within(20)) * 10**9}  # nanoseconds; the image's own test
    container = images.run(
        *("amb", "polvi/simple-amb"),
        publish=None,
        command=[NOBODY_ANSWERS],
        read_only=True,
        cap_drop=["ALL"],
        security_opt=["no-new-privileges"],
        healthcheck=often,
    )
    eventually_sync(lambda: state_of(container)["Health"]["Status"] == "healthy", timeout=60)
    code, output = container.exec_run(["discovery", "health", "--json"])
    assert code == 0
    (daemon,) = json.loads(output)["daemons"]
    assert (daemon["status"], len(daemon["instances"])) == ("ok", 1)
    # In another run directory no daemon is found.
    assert container.exec_run(["discovery", "health", "--run-dir", "/tmp"]).exit_code == 1

    # An orphan of an orphan is reaped by process 1.
    orphan = "import os\nif os.fork() == 0 and os.fork() == 0:\n    os._exit(0)"
    assert container.exec_run(["python", "-c", orphan]).exit_code == 0
    eventually_sync(lambda: all("Z" not in line for line in states(container)), "no zombie", timeout=20)

    code, seconds = stopped(container)
    print(f"docker stop took {seconds:.2f} s")
    assert code == 0


def states(container: Container) -> list[str]:
    top = container.top(ps_args="-o pid,stat")
    return [fields[1] for fields in top["Processes"]]


@pytest.mark.parametrize(("number", "code"), [("SIGTERM", {0, 143}), ("SIGINT", {0, 1, 130}), ("SIGHUP", {129})])
def test_a_signal_ends_a_container_that_has_only_just_started(
    images: DockerEngine, number: str, code: set[int]
) -> None:
    """For process 1 the kernel ignores what it does not handle; then Docker kills, and the code is 137.

    SIGHUP ends a program that does not read it yet, and SIGINT, with 1, a Python that has not started yet. One in a
    hundred SIGINTs is lost in the first 0.1 s of a Python, before `discovery` handles them itself.
    """
    container = images.run("amb", "polvi/simple-amb", publish=None, command=[NOBODY_ANSWERS])
    process_1(images, "amb", "tini")
    container.kill(number)
    try:
        ended = container.wait(timeout=within(20))
    except RequestException:
        if number != "SIGINT" or state_of(container)["Status"] != "running":
            raise
        container.kill(number)  # Python has lost the first in a callback of its own import system
        ended = container.wait(timeout=within(20))
    assert ended["StatusCode"] in code


def test_a_signal_that_comes_while_root_is_given_up_waits_for_the_program(images: DockerEngine) -> None:
    """Python blocks it as soon as it has started; the program is tini, and then discovery."""
    container = images.run("registrar", "polvi/docker-register", publish=None, command=["web-1", "80", "web"])
    process_1(images, "registrar", "python3", "tini")
    container.kill("SIGTERM")
    assert container.wait(timeout=within(30))["StatusCode"] in {0, 143}


def process_1(engine: DockerEngine, name: str, *programs: str) -> None:
    """Wait until process 1 is one of these programs, in place of Docker's own, and is prepared for SIGTERM."""
    process = Path(f"/proc/{engine.pid(name)}")

    def ready() -> bool:
        lines = dict(line.split(":\t", 1) for line in (process / "status").read_text().splitlines())
        # While tini waits for signals none shows as blocked; the last that it prepares is to ignore SIGTTIN.
        kind, number = ("SigIgn", signal.SIGTTIN) if lines["Name"] == "tini" else ("SigBlk", signal.SIGTERM)
        return lines["Name"] in programs and bool(int(lines[kind], 16) >> (number - 1) & 1)

    eventually_sync(ready, f"process 1 to be {' or '.join(programs)}", timeout=20)


RunAs = Callable[..., tuple[int, str]]


@pytest.fixture
def run_as(images: DockerEngine, tmp_path: Path) -> Iterator[RunAs]:
    """Return a function that runs a program by way of socket_group.py, with a socket of the group `gid`, or without."""

    listening = socket.socket(socket.AF_UNIX)

    def run(gid: int | None, program: list[str], **options: Any) -> tuple[int, str]:
        volumes = {}
        if gid is not None:
            path = tmp_path / "docker.sock"
            listening.bind(str(path))
            os.chown(path, 0, gid)
            volumes[str(path)] = {"bind": SOCKET, "mode": "rw"}
        container = images.run(
            *("asked", "polvi/docker-register"),
            publish=None,
            entrypoint=GIVE_UP_ROOT,
            command=program,
            volumes=volumes,
            **options,
        )
        code = container.wait(timeout=within(30))["StatusCode"]
        return code, container.logs().decode()

    with listening:
        yield run


@pytest.mark.parametrize("gid", [None, 0, 4242])
def test_root_is_given_up_for_the_group_of_the_socket_alone(run_as: RunAs, gid: int | None) -> None:
    """Also where the group is root's, or where no socket is mounted."""
    code, output = run_as(gid, ["/usr/bin/python3", "-c", STATUS])
    assert code == 0
    status = {name: values.split() for name, _, values in (line.partition(":") for line in output.splitlines())}
    group = str(65532 if gid is None else gid)
    assert status["Uid"] == ["65532"] * 4
    assert status["Gid"] == [group] * 4
    assert status["Groups"] == [group]
    assert status["NoNewPrivs"] == ["1"]
    for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb"):
        assert status[f"Cap{kind}"] == ["0" * 16], kind


def test_who_is_not_root_stays_who_it_is(run_as: RunAs) -> None:
    code, output = run_as(4242, ["/usr/bin/python3", "-c", STATUS], user="65532:4242")
    assert code == 0
    assert "Uid:\t65532\t65532\t65532\t65532" in output
    assert "Gid:\t4242\t4242\t4242\t4242" in output


def test_root_that_cannot_be_given_up_runs_nothing(run_as: RunAs) -> None:
    code, output = run_as(4242, ["/usr/bin/python3", "-c", "print('it runs')"], cap_drop=["ALL"])
    assert code == 1
    assert "it runs" not in output
    assert "start the container with the capabilities SETUID and SETGID, or with --user 65532:GROUP" in output
