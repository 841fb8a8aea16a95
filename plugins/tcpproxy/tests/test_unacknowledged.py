"""Machines that die without a word, in network namespaces, and peers that live and do not read.

Point 11.
"""

import ctypes
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from sampling import sampled

from discovery.testing import cannot_run, eventually_sync, require_program, within

from .driven_worker import Meet, StartWorker, Worker
from .sockets import fill

SECONDS = 1.0
"""The option, here."""
PATIENCE = 60.0
_CLONE_NEWNET = 0x40000000
NEAR, FAR = "10.77.0.1", "10.77.0.2"


class Wire:
    """Two machines, `near` and `far`, each a network namespace, with a cable between them."""

    def __init__(self, stack: ExitStack) -> None:
        """Lay it."""
        self._libc = ctypes.CDLL(None, use_errno=True)
        self.near, self.far = self._machine(stack), self._machine(stack)
        self.run(self.near, "link", "add", "wire", "type", "veth", "peer", "name", "wire", "netns", str(self.far))
        for machine, address in ((self.near, NEAR), (self.far, FAR)):
            self.run(machine, "address", "add", f"{address}/24", "dev", "wire")
            for device in ("lo", "wire"):
                self.run(machine, "link", "set", device, "up")

    def _machine(self, stack: ExitStack) -> int:
        process = subprocess.Popen(["unshare", "--net", "sleep", "600"])
        stack.callback(process.wait, 20)
        stack.callback(process.kill)
        ours = Path("/proc/self/ns/net").readlink()
        eventually_sync(lambda: Path(f"/proc/{process.pid}/ns/net").readlink() != ours, timeout=20)
        return process.pid

    @staticmethod
    def under(machine: int) -> tuple[str, ...]:
        """What runs a command there."""
        return ("nsenter", f"--net=/proc/{machine}/ns/net")

    def run(self, machine: int, *arguments: str) -> None:
        """Run `ip` there."""
        subprocess.run([*self.under(machine), "ip", *arguments], check=True)

    @contextmanager
    def at(self, machine: int) -> Iterator[None]:
        """Sockets that are made in here are that machine's."""
        before = os.open("/proc/self/ns/net", os.O_RDONLY)
        there = os.open(f"/proc/{machine}/ns/net", os.O_RDONLY)
        try:
            self._enter(there)
            try:
                yield
            finally:
                self._enter(before)
        finally:
            os.close(there)
            os.close(before)

    def _enter(self, namespace: int) -> None:
        if self._libc.setns(namespace, _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")

    def carries(self) -> bool:
        """Whether both ends send: the kernel drops packets for up to a second after a cable has been plugged in."""
        ask = ("ip", "link", "show", "wire")
        told = (subprocess.check_output([*self.under(each), *ask], text=True) for each in (self.near, self.far))
        return all("state UP" in each for each in told)

    def die(self, how: str) -> None:
        """Have `far` say nothing any more; `near` may notice that the cable or the neighbour is dead, or not."""
        self.run(
            self.far, *(("link", "set", "wire", "down") if how == "cable" else ("address", "flush", "dev", "wire"))
        )
        if how == "neighbour":  # asked for its hardware address three times, as after a minute
            self.run(self.near, "ntable", "change", "name", "arp_cache", "dev", "wire", "retrans", "100")
            self.run(self.near, "neighbour", "flush", "dev", "wire")


@pytest.fixture
def wire(stack: ExitStack) -> Wire:
    for program in ("ip", "unshare", "nsenter"):
        require_program(program, wheel=False)
    if os.geteuid() != 0:
        cannot_run("only root can make network namespaces")
    return Wire(stack)


def is_reset(sock: socket.socket) -> bool:
    try:
        while sock.recv(1 << 20):
            pass
    except (ConnectionResetError, TimeoutError) as error:
        return isinstance(error, ConnectionResetError)
    return False


def pair(
    wire: Wire, start_worker: StartWorker, stack: ExitStack, dying: str, seconds: float = SECONDS
) -> tuple[Any, socket.socket, socket.socket]:
    """A worker on `near`, and a connection through it: the end that is on `far`, and the one that is not."""
    client_at, server_at = (wire.far, wire.near) if dying == "client" else (wire.near, wire.far)
    host = FAR if dying == "backend" else NEAR
    worker = start_worker(under=wire.under(wire.near))
    with wire.at(wire.near):
        worker.listen(
            socket.create_server((NEAR, 0)), unacknowledged_timeout=seconds, access_log=True, connect_timeout=20.0
        )
    with wire.at(server_at):
        listener = stack.enter_context(socket.create_server((host, 0)))
    listener.settimeout(within(PATIENCE))
    record = {"id": "b", "host": host, "port": listener.getsockname()[1], "weight": 1, "draining": False}
    assert worker.ask("backends", services={"web": [record]}).keys() == {"re"}
    with wire.at(client_at):
        client = worker.connect()
    server = stack.enter_context(listener.accept()[0])
    for sock in (client, server):
        sock.settimeout(within(PATIENCE))
    server.sendall(b"+")
    assert client.recv(1) == b"+"
    return (worker, client, server) if dying == "client" else (worker, server, client)


def end_of(worker: Worker) -> str:
    def ended() -> list[str]:
        worker.report()
        return [event["end"] for event in worker.events if event["event"] == "access"]

    return eventually_sync(ended, timeout=PATIENCE)[0]


@pytest.mark.parametrize("how", sampled(["cable", "silence"]))
@pytest.mark.parametrize("dying", ["client", "backend"])
def test_unacknowledged_data_to_a_dead_machine_ends_the_connection(
    wire: Wire, start_worker: StartWorker, stack: ExitStack, dying: str, how: str
) -> None:
    """Point 11. Within the timeout, but not long before it has passed."""
    worker, _, living = pair(wire, start_worker, stack, dying)
    wire.die(how)
    begun = time.monotonic()
    living.sendall(b"are you there?")
    assert is_reset(living)
    assert time.monotonic() - begun >= SECONDS * 0.93
    assert end_of(worker) == "unacknowledged"


@pytest.mark.parametrize("how", ["neighbour", "silence"])
def test_a_machine_that_the_kernel_gives_up_is_told_as_one_that_acknowledges_nothing(
    wire: Wire, start_worker: StartWorker, stack: ExitStack, how: str
) -> None:
    """The kernel's error is EHOSTUNREACH if the neighbour does not answer to its address either, and else ETIMEDOUT."""
    worker, _, living = pair(wire, start_worker, stack, "backend", seconds=0)
    with wire.at(wire.near):
        Path("/proc/sys/net/ipv4/tcp_retries2").write_text("2")
    wire.die(how)
    living.sendall(b"are you there?")
    assert is_reset(living)
    assert end_of(worker) == "unacknowledged"


def test_a_machine_that_the_kernel_gives_up_while_its_client_does_not_read_is_told_as_such(
    wire: Wire, start_worker: StartWorker, stack: ExitStack
) -> None:
    worker, far, living = pair(wire, start_worker, stack, "backend", seconds=0)
    with wire.at(wire.near):
        Path("/proc/sys/net/ipv4/tcp_retries2").write_text("2")
    fill(far)
    wire.die("silence")
    living.sendall(b"are you there?")
    assert end_of(worker) == "unacknowledged"


@pytest.mark.parametrize("how", sampled(["cable", "silence"]))
def test_a_backends_machine_that_dies_before_its_answer_ends_the_connection(
    wire: Wire, start_worker: StartWorker, stack: ExitStack, how: str
) -> None:
    """It has acknowledged the request, so that nothing is sent to it any more."""
    worker, far, living = pair(wire, start_worker, stack, "backend")
    living.sendall(b"a request")
    assert far.recv(20) == b"a request"
    wire.die(how)
    assert is_reset(living)
    assert end_of(worker) == "unacknowledged"


def test_a_backend_that_lives_and_takes_long_to_answer_keeps_the_connection(
    wire: Wire, start_worker: StartWorker, stack: ExitStack
) -> None:
    worker, far, living = pair(wire, start_worker, stack, "backend")
    living.sendall(b"a request")
    assert far.recv(20) == b"a request"
    begun = time.monotonic()
    eventually_sync(lambda: time.monotonic() > begun + 10 * SECONDS, timeout=PATIENCE)
    far.sendall(b"its answer")
    assert living.recv(20) == b"its answer"
    assert worker.report()["open"] == 1


@pytest.mark.parametrize("dying", sampled(["client", "backend"]))
def test_a_machine_that_dies_with_a_zero_window_ends_the_connection(
    wire: Wire, start_worker: StartWorker, stack: ExitStack, dying: str
) -> None:
    """Point 11. Its window is zero, so that nothing but probes is sent."""
    worker, _, living = pair(wire, start_worker, stack, dying)
    fill(living)
    living.settimeout(within(PATIENCE))
    begun = time.monotonic()
    eventually_sync(lambda: time.monotonic() > begun + 3 * SECONDS, timeout=PATIENCE)
    assert worker.report()["open"] == 1
    wire.die("silence")
    assert is_reset(living)
    assert end_of(worker) == "unacknowledged"


@pytest.mark.parametrize("lazy", sampled(["client", "backend"]))
def test_a_live_peer_that_does_not_read_keeps_the_connection_for_ten_timeouts(
    meet: Meet, worker: Worker, backend: socket.socket, lazy: str
) -> None:
    """Point 11. TCP_USER_TIMEOUT would end it."""
    worker.listen(unacknowledged_timeout=SECONDS)
    worker.serve(backend)
    client, server = meet()
    reader, writer = (client, server) if lazy == "client" else (server, client)
    sent = fill(writer)
    writer.settimeout(within(PATIENCE))
    begun = time.monotonic()
    eventually_sync(lambda: time.monotonic() > begun + 10 * SECONDS, timeout=PATIENCE)
    writer.shutdown(socket.SHUT_WR)
    got = 0
    while data := reader.recv(1 << 20):
        got += len(data)
    assert got == sent


def test_a_silent_peer_without_unacknowledged_data_keeps_the_connection(
    wire: Wire, start_worker: StartWorker, stack: ExitStack
) -> None:
    """Point 11. That is what keep-alive is for; the machine may be back before anything is sent."""
    worker, far, living = pair(wire, start_worker, stack, "backend")
    wire.run(wire.far, "link", "set", "wire", "down")
    begun = time.monotonic()
    eventually_sync(lambda: time.monotonic() > begun + 3 * SECONDS, timeout=PATIENCE)
    wire.run(wire.far, "link", "set", "wire", "up")
    eventually_sync(wire.carries, timeout=PATIENCE)
    living.sendall(b"back?")
    assert far.recv(5) == b"back?"
    assert worker.report()["open"] == 1
