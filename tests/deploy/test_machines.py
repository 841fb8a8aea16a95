"""Machines on one network, as the tutorial has: dockerd and addresses of each, loss of power, and nothing left."""

import io
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from docker_lab import Lan, Machine
from docker_lab.images import busybox_image

from discovery.testing import eventually_sync, require_program

pytestmark = [pytest.mark.docker, pytest.mark.usefixtures("_requirements")]

PAGE = b"hello from busybox\n"

Fetch = Callable[[str], bytes]


@pytest.fixture
def lan() -> Iterator[Lan]:
    with Lan("10.132.0.1/24", "203.0.113.1/24") as lan:
        yield lan


@pytest.fixture
def fetch(lan: Lan) -> Fetch:
    """Return a function that reads a page on the network. Raises OSError if nobody answers."""

    require_program("curl", wheel=False)

    def fetch(address: str) -> bytes:
        command = [*lan.enter, "curl", "-sS", "--max-time", "3", f"http://{address}/"]
        done = subprocess.run(command, capture_output=True, check=False)
        if done.returncode:
            raise OSError(done.stderr.decode())
        return done.stdout

    return fetch


def serve(machine: Machine, publish: str) -> None:
    machine.client.images.build(fileobj=io.BytesIO(busybox_image()), custom_context=True, tag="busybox", rm=True)
    machine.docker("run", "-d", "--name", "web", "-p", publish, "busybox")


def test_a_machine_loses_power_and_returns_with_its_disk(lan: Lan, fetch: Fetch) -> None:
    with Machine(lan, "a", "10.132.0.11", "203.0.113.11") as machine:
        serve(machine, "203.0.113.11:80:80")
        assert eventually_sync(lambda: fetch("203.0.113.11")) == PAGE
        keeper = machine.spawn("busybox", "tail", "-f", machine.directory / "pid")
        machine.power_off()
        assert keeper.poll() is not None
        with pytest.raises(OSError, match="timed out|No route to host|Failed to connect"):
            fetch("203.0.113.11")
        machine.power_on()
        assert machine.docker("ps", "-q") == ""
        machine.docker("start", "web")
        assert eventually_sync(lambda: fetch("203.0.113.11")) == PAGE


def test_a_command_ends_although_dockerd_hangs(lan: Lan) -> None:
    with Machine(lan, "a", "10.132.0.11") as machine:
        machine.suspend()
        with pytest.raises(subprocess.TimeoutExpired):
            machine.docker("ps", seconds=1)


def test_machines_reach_each_other_and_leave_nothing_behind(lan: Lan, fetch: Fetch) -> None:
    with Machine(lan, "a", "10.132.0.11") as first, Machine(lan, "b", "10.132.0.12") as second:
        serve(second, "10.132.0.12:80:80")
        eventually_sync(lambda: fetch("10.132.0.12"))
        first.in_namespace("curl", "-sS", "--max-time", "10", "http://10.132.0.12/")
        directories = [first.directory, second.directory]
        names = [first.name, second.name]
    assert not any(directory.exists() for directory in directories)
    assert not any(Path(f"/run/netns/{name}").exists() for name in names)
    mounts = Path("/proc/self/mountinfo").read_text()
    assert not any(str(directory) in mounts for directory in directories)
