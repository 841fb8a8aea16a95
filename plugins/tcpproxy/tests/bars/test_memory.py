"""Memory of a waiting connection, with many connections and with clients that read slowly."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from daemons import Starter

from discovery.testing import eventually_sync, free_port, within

from .load import StartOrigin, StartPlane

IDLE = 5_000
MANY = 10_000
KIB = 1 << 10
MIB = 1 << 20
BATCH = 500


def connected(connect: Callable[[], socket.socket], count: int, stack: ExitStack) -> Iterator[socket.socket]:
    """So many connections, each of which the backend has greeted; no more at once than the kernel holds."""
    for _ in range(0, count, BATCH):
        batch = [stack.enter_context(connect()) for _ in range(BATCH)]
        for sock in batch:
            assert sock.recv(1) == b"a"
        yield from batch


def test_an_idle_connection_takes_4_kib_at_most(planes: StartPlane, origins: StartOrigin) -> None:
    plane, origin = planes(), origins("a")
    plane.serve(origin.port)
    with ExitStack() as stack:
        list(connected(plane.connect, 100, stack))  # what is taken once is not counted
        before = plane.memory()
        socks = list(connected(plane.connect, IDLE, stack))
        each = (plane.memory() - before) / len(socks)
        print(f"{each:.0f} bytes for each of {len(socks)} idle connections")
        assert each <= 4 * KIB


@pytest.mark.costly
def test_10_000_idle_connections_are_carried(start_daemon: Starter, origins: StartOrigin, tmp_path: Path) -> None:
    origin, port = origins("a"), free_port()
    record = tmp_path / "registry" / "web" / "a"
    record.parent.mkdir(parents=True)
    record.write_text(f"127.0.0.1:{origin.port}")
    start_daemon(
        *("--registry", f"file://{tmp_path}/registry", "--plugin", "tcpproxy"),
        *("--set", f"tcpproxy.listen.web=127.0.0.1:{port}", "--set", "tcpproxy.workers=2"),
    )
    address = ("127.0.0.1", port)

    def connects() -> bool:
        with socket.create_connection(address, timeout=within(20)) as sock:
            return sock.recv(1) == b"a"

    eventually_sync(connects, "it to carry", timeout=20)
    with ExitStack() as stack:
        socks = list(connected(lambda: socket.create_connection(address, timeout=within(60)), MANY, stack))
        for number, sock in enumerate(socks):
            sock.sendall(b"%d" % number)
        for number, sock in enumerate(socks):
            assert sock.recv(10) == b"%d" % number


def test_slow_readers_take_bounded_memory(planes: StartPlane) -> None:
    plane, readers, flood = planes(), 10, 128 * MIB  # more than the kernel's buffers hold, of two connections
    sent = [0] * readers

    def send(sock: socket.socket, number: int) -> None:
        with sock:
            for _ in range(flood // MIB):
                sock.sendall(bytes(MIB))
                sent[number] += MIB

    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        plane.serve(listener.getsockname()[1])
        socks, threads = [], []
        before = plane.memory()
        for number in range(readers):
            socks.append(stack.enter_context(plane.connect()))
            threads.append(threading.Thread(target=send, args=(listener.accept()[0], number), daemon=True))
            threads[-1].start()
        last: list[list[int]] = []

        def stuck() -> bool:
            last.append(list(sent))
            return len(last) > 50 and last[-1] == last[-50]

        eventually_sync(stuck, "the senders to be stuck", timeout=30)
        assert max(sent) < flood
        grown = plane.memory() - before
        print(f"{grown / MIB:.1f} MiB for {readers} connections that nobody reads")
        assert grown <= readers * MIB // 2 + 4 * MIB  # one buffer each, and some room
        for sock in socks:
            count = 0
            while data := sock.recv(MIB):
                count += len(data)
            assert count == flood
        for thread in threads:
            thread.join(within(30))


@pytest.mark.costly
@pytest.mark.parametrize("direction", ["up", "down"])
def test_back_pressure_reaches_the_sender(planes: StartPlane, direction: str) -> None:
    """Back-pressure reaches the sender: what is under way is bounded, and the other direction is not concerned."""
    plane = planes()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        plane.serve(listener.getsockname()[1])
        client = plane.connect()
        server, _ = listener.accept()
    sender, receiver = (client, server) if direction == "up" else (server, client)
    with client, server:
        sender.settimeout(1.0)
        with pytest.raises(TimeoutError):
            sender.sendall(bytes(256 * MIB))
        receiver.sendall(b"the other way")
        sender.settimeout(within(30))
        assert sender.recv(100) == b"the other way"
