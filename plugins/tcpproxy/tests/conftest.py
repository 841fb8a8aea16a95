"""Fixtures of tests that drive a worker process in place of the daemon."""

import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from discovery.testing import within

from .driven_worker import SETTINGS, Meet, Reset, StartWorker, Worker


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """What is closed in the end."""
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def listener_settings() -> dict[str, Any]:
    """A listener's, as the control plane tells them."""
    return dict(SETTINGS)


@pytest.fixture
def start_worker(stack: ExitStack) -> StartWorker:
    """Starts workers; the arguments: how many descriptors one may have, and a command that runs it."""
    return lambda descriptors=None, under=(): Worker(stack, descriptors, under)


@pytest.fixture
def worker(start_worker: StartWorker) -> Worker:
    """A worker."""
    return start_worker()


@pytest.fixture
def backend(stack: ExitStack) -> socket.socket:
    """A listening socket."""
    listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=1024))
    listener.settimeout(within(20))
    return listener


@pytest.fixture
def meet(worker: Worker, backend: socket.socket, stack: ExitStack) -> Meet:
    """Connections through the worker: both sockets, the client's and the backend's."""

    def meet() -> tuple[socket.socket, socket.socket]:
        client = worker.connect()
        server = stack.enter_context(backend.accept()[0])
        server.settimeout(within(20))
        server.sendall(b"+")  # one that resets before it is known to have come would count as one that refuses
        assert client.recv(1) == b"+"
        return client, server

    return meet


@pytest.fixture
def reset() -> Reset:
    """Closes a socket with an RST."""

    def reset(sock: socket.socket) -> None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()

    return reset


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
