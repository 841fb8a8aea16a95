"""Descriptors: none is left over, and running out of them is a pause."""

import random
import socket
import struct
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from discovery.testing import eventually_sync, free_port, within

from .load import Plane, StartOrigin, StartPlane

NO_LINGER = struct.pack("ii", 1, 0)


def reset(sock: socket.socket) -> None:
    """Close it with an RST."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
    sock.close()


class ClosingBackend:
    """A backend that ends connections in every way: after what it was sent says so, at once, by FIN or by RST."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
        self.port = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._serve, daemon=True) for _ in range(4)]
        for thread in self._threads:
            thread.start()

    def _serve(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            with suppress(OSError), sock:
                sock.settimeout(within(20))
                while data := sock.recv(1000):
                    if data.startswith(b"reset"):
                        reset(sock)
                        break
                    sock.sendall(data)
                    if data.startswith(b"close"):
                        break

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(within(30))


def visit(plane: Plane, kind: int) -> None:
    """One connection, ended in one of several ways."""
    with suppress(ConnectionResetError, BrokenPipeError), plane.connect() as sock:
        match kind:
            case 0:  # the client goes away before anything
                return
            case 1:
                reset(sock)
            case 2:  # the backend closes
                sock.sendall(b"close")
                while sock.recv(1000):
                    pass
            case 3:  # the backend resets
                sock.sendall(b"reset")
                while sock.recv(1000):
                    pass
            case 4:  # a half-close, answered
                sock.sendall(b"hello")
                sock.shutdown(socket.SHUT_WR)
                while sock.recv(1000):
                    pass
            case _:  # the client resets what it was answered
                sock.sendall(b"hello")
                sock.recv(1000)
                reset(sock)


@pytest.mark.parametrize("connections", [5_000, pytest.param(100_000, marks=pytest.mark.faults)])
def test_closed_connections_leave_no_descriptor(planes: StartPlane, connections: int) -> None:
    plane, backend = planes(), ClosingBackend()
    try:
        plane.serve(backend.port, free_port())  # the other one refuses: every second connection is dialled again
        visit(plane, 2)
        before = eventually_sync(plane.descriptors)
        chance = random.Random(connections)
        kinds = [chance.randrange(6) for _ in range(connections)]
        with ThreadPoolExecutor(8) as pool:
            for _ in pool.map(lambda kind: visit(plane, kind), kinds):
                pass
        eventually_sync(lambda: len(plane.descriptors()) <= len(before), "the descriptors to be closed", timeout=30)
    finally:
        backend.close()


def test_a_worker_without_free_descriptors_pauses_without_spinning_and_resumes(
    planes: StartPlane, origins: StartOrigin
) -> None:
    plane, origin = planes(), origins("a")
    plane.serve(origin.port)
    with plane.connect() as first:
        assert first.recv(1) == b"a"
        plane.limit(more=20)
        waiting = [plane.connect() for _ in range(60)]  # the kernel completes the connections, accepted or not
        try:
            served: list[socket.socket] = []

            def serve() -> list[socket.socket]:
                for sock in list(waiting):
                    sock.setblocking(False)
                    with suppress(BlockingIOError):
                        assert sock.recv(1) == b"a"
                        waiting.remove(sock)
                        served.append(sock)
                return served

            eventually_sync(lambda: len(serve()) >= 5, "some to be served")
            used = plane.cpu()
            time.sleep(1.0)  # the bar is processor time in a second: a worker that does not spin shows no event
            assert plane.cpu() - used < 0.5
            first.sendall(b"still here")
            assert first.recv(100) == b"still here"

            def all_served() -> bool:
                for sock in serve():
                    sock.close()
                served.clear()
                return not waiting

            eventually_sync(all_served, "every client to be served in the end", timeout=30)
        finally:
            for sock in (*waiting, *served):
                sock.close()
    plane.limit()
    with plane.connect() as last:
        assert last.recv(1) == b"a"
