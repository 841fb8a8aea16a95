"""Machines on one network: each with its own addresses, its own dockerd, and a power switch."""

import ipaddress
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Self

import docker

from discovery.system.embedded import find_program
from discovery.testing import within
from docker_lab.engine import Engine, run
from docker_lab.leftovers import LabDirectory, delete_namespace, sweep

_BRIDGE = "br0"
_DOCKER_SECONDS = 300.0
"""Seconds after which dockerd counts as hung: the transfer of the images takes longest."""


class Lan:
    """A bridge in a network namespace of its own, without a link to anything outside.

    A context manager. `addresses` are those of the bridge, each with its prefix length, such as 10.132.0.1/24; the
    first is the machines' gateway. The machines have to end before the network.
    """

    def __init__(self, *addresses: str) -> None:
        """Describe the network; it begins with the block."""
        self.addresses = tuple(ipaddress.IPv4Interface(address) for address in addresses)
        self._place: LabDirectory
        self._removal: ExitStack

    @property
    def name(self) -> str:
        """The name of the network namespace."""
        return self._place.name

    @property
    def enter(self) -> tuple[str, ...]:
        """The beginning of a command that runs a program in the network namespace."""
        return (str(find_program("nsenter")), f"--net=/run/netns/{self.name}")

    def __enter__(self) -> Self:
        """Create the network."""
        sweep()
        with ExitStack() as removal:
            self._place = LabDirectory()
            removal.callback(self._place.remove)
            name = self._place.name = self._place.path.name
            run("ip", "netns", "add", name)
            inside = ("ip", "-n", name)
            run(*inside, "link", "set", "lo", "up")
            run(*inside, "link", "add", _BRIDGE, "type", "bridge")
            for address in self.addresses:
                run(*inside, "address", "add", str(address), "dev", _BRIDGE)
            run(*inside, "link", "set", _BRIDGE, "up")
            self._removal = removal.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        """Remove the network and its directory."""
        self._removal.close()


class Machine(Engine):
    """A machine on a `Lan`: a network namespace with addresses, dockerd, and whatever `spawn` starts.

    `port` names the machine's port at the bridge, at most 15 characters. `options` are further options of dockerd.
    """

    def __init__(self, lan: Lan, port: str, *addresses: str, options: Sequence[str] = ()) -> None:
        """Describe the machine, which begins with the block. The first address is the machine's own."""
        super().__init__()
        self.port = port
        self.addresses = tuple(ipaddress.IPv4Address(address) for address in addresses)
        self.address = str(self.addresses[0])
        self._lan = lan
        self._engine_options = tuple(options)

    def docker(self, *arguments: str, seconds: float = _DOCKER_SECONDS) -> str:
        """Run the command `docker` with the arguments, and return its output.

        Raises subprocess.CalledProcessError if the command fails, and subprocess.TimeoutExpired if it takes longer than
        `seconds`, as when dockerd hangs.
        """
        command = [str(find_program("docker")), "--host", self.url, *arguments]
        done = subprocess.run(
            command,
            check=True,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            start_new_session=True,
            timeout=within(seconds),
        )
        return done.stdout

    def docker_remove(self, name: str) -> None:
        """`docker rm -f`: remove a container, running or not. It need not exist."""
        with suppress(docker.errors.NotFound):
            self.client.containers.get(name).remove(force=True)

    def docker_logs(self, name: str) -> str:
        """`docker logs`: return what a container has written, on both streams; nothing if it does not exist."""
        with suppress(docker.errors.NotFound):
            return str(self.client.containers.get(name).logs().decode(errors="replace"))
        return ""

    def suspend_container(self, name: str) -> None:
        """Suspend the processes of a container by SIGSTOP, of which Docker learns nothing: it acknowledges, no more."""
        for pid in _family(int(self.client.api.inspect_container(name)["State"]["Pid"])):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)

    def power_off(self) -> float:
        """Cut the machine off the network, and end by SIGKILL whatever runs there, dockerd and containers included.

        Nobody is told: no packet leaves the machine. Its disk stays. Returns the time, of CLOCK_MONOTONIC, at which
        the machine was cut off.
        """
        run("ip", "-n", self._lan.name, "link", "set", "dev", self.port, "down")
        cut = time.monotonic()
        self._place.kill()
        self._close_clients()
        self._reap()
        self._place.unmount()
        # Without it, the link would be there until the kernel has done with the namespace.
        run("ip", "-n", self._lan.name, "link", "delete", "dev", self.port)
        delete_namespace(self.name)
        return cut

    def power_on(self) -> None:
        """Start dockerd again with what is on the machine's disk."""
        self._make_network()
        self._start_containerd()
        self.start()

    def _options(self) -> tuple[str, ...]:
        return self._engine_options

    def _make_network(self) -> None:
        name = self._place.name = self.directory.name
        gateway = self._lan.addresses[0].ip
        run("ip", "netns", "add", name)
        # The same hardware address after a loss of power: it is the same network card.
        card = ":".join(f"{byte:02x}" for byte in (0x02, 0, *self.addresses[0].packed))
        peer = ("peer", "name", "eth0", "address", card, "netns", name)
        run("ip", "-n", self._lan.name, "link", "add", "name", self.port, "type", "veth", *peer)
        run("ip", "-n", self._lan.name, "link", "set", "dev", self.port, "master", _BRIDGE, "up")
        inside = ("ip", "-n", name)
        run(*inside, "link", "set", "lo", "up")
        for address in self.addresses:
            length = next(own.network.prefixlen for own in self._lan.addresses if address in own.network)
            run(*inside, "address", "add", f"{address}/{length}", "dev", "eth0")
        run(*inside, "link", "set", "eth0", "up")
        run(*inside, "route", "add", "default", "via", str(gateway))


def _family(pid: int) -> list[int]:
    """Return a process and its descendants."""
    found = [pid]
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found += _family(int(child))
    return found
