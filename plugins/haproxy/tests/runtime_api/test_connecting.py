"""Connections to a socket of HAProxy whose queue of connections is full for a while."""

import asyncio
import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from discovery.testing import within
from discovery_haproxy.connecting import connect_to
from discovery_haproxy.program.control_socket import ControlSocket

PATIENCE = 60.0


@pytest.fixture
def full(path: Path) -> Iterator[socket.socket]:
    """Return a listening socket whose queue is full until the first `accept`."""
    with socket.socket(socket.AF_UNIX) as listening, ExitStack() as waiting:
        listening.setblocking(False)
        listening.bind(str(path))
        listening.listen(0)
        with suppress(BlockingIOError):
            while True:
                client = waiting.enter_context(socket.socket(socket.AF_UNIX))
                client.setblocking(False)
                client.connect(str(path))
        waiting.close()
        yield listening


async def test_a_command_that_is_sent_once_waits_for_its_place(full: socket.socket, path: Path) -> None:
    """Otherwise a reload would count as requested."""

    async def answer() -> None:
        loop, command = asyncio.get_running_loop(), b""
        while not command:  # those that filled the queue have left
            client, _ = await loop.sock_accept(full)
            with client:
                command = await loop.sock_recv(client, 100)
                if command:
                    await loop.sock_sendall(client, b"Success=1")

    sent = asyncio.create_task(ControlSocket(path).send_once("reload", within(PATIENCE)))
    await asyncio.sleep(0)  # the first attempt finds the queue full
    answered = asyncio.create_task(answer())
    assert await sent == "Success=1"
    await answered


async def test_an_attempt_that_is_given_up_leaves_no_socket_open(full: socket.socket, path: Path) -> None:
    attempt = asyncio.create_task(connect_to(path))
    await asyncio.sleep(0)
    attempt.cancel()
    with pytest.raises(asyncio.CancelledError):
        await attempt  # an open socket would be a ResourceWarning, which is an error in the tests
