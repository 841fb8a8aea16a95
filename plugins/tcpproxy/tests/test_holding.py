"""Those who are held, while somebody else finds out whether the backend is back."""

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from discovery_tcpproxy.worker.backends import LAST_RESORT_DELAY
from discovery_tcpproxy.worker.descriptors import Descriptors
from discovery_tcpproxy.worker.listener import Listener, Shared
from discovery_tcpproxy.worker.loop import Loop
from discovery_tcpproxy.worker.stream import Buffer, Connection, no_linger

SETTINGS = {
    "service": "web",
    "balance": "roundrobin",
    "hold": 60.0,
    "hold_connections": 10,
    "connect_timeout": 60.0,
    "retries": 3,
    "idle_timeout": 0.0,
    "drain": None,
    "max_connections": None,
    "max_connections_per_client": None,
    "allow": [],
    "deny": [],
    "accept_proxy": None,
    "send_proxy": None,
    "access_log": False,
}


@pytest.fixture
def silent() -> Iterator[tuple[str, int]]:
    """A backend whose connects are never answered: its queue is full."""
    with ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):
            filling = stack.enter_context(socket.socket())
            filling.setblocking(False)
            filling.connect_ex(server.getsockname())
        yield server.getsockname()


def test_a_probe_whose_client_leaves_passes_to_one_who_is_held(silent: tuple[str, int]) -> None:
    def broken(error: Exception) -> None:
        raise error

    loop = Loop(broken)
    listener = Listener("web", Shared(loop, Buffer(), Descriptors(loop, nothing, nothing), nothing, nothing))
    listener.configure(SETTINGS)
    listener.update([{"id": "a", "host": silent[0], "port": silent[1], "weight": 1, "draining": False}])
    backend = listener.backends.next("", (), loop.now)
    assert backend is not None
    listener.backends.failed(backend, loop.now - LAST_RESORT_DELAY)

    def arrive() -> tuple[socket.socket, Connection]:
        ours = socket.create_connection(clients.getsockname())
        its, address = clients.accept()
        its.setblocking(False)
        before = set(listener.connections)
        listener.accepted(socket.SocketType(fileno=its.detach()), address)
        (connection,) = listener.connections - before
        return ours, connection

    with socket.create_server(("127.0.0.1", 0)) as clients:
        first, probing = arrive()
        second, held = arrive()
    with first, second:
        assert (listener.state(probing), listener.state(held)) == ("connecting", "held")
        no_linger(first)
        first.close()
        run(loop, lambda: listener.state(held) == "connecting")
        assert probing.closed
        held.abort()


def nothing(*_: object) -> None:
    """Do it."""


def run(loop: Loop, condition: Callable[[], bool]) -> None:
    """Serve until the condition holds; AssertionError if it never does."""
    deadline = time.monotonic() + 10

    def look() -> None:
        if condition() or time.monotonic() > deadline:
            loop.stop()
        else:
            loop.call_later(0.01, look)

    loop.call_later(0, look)
    loop.run()
    assert condition()
