"""Many clients at the admin endpoint in one instant: all of them are answered."""

import asyncio
import socket
from collections import Counter

import pytest

from discovery.admin.port import AdminPort
from discovery.admin.sources import Sources
from discovery.admin.status import DaemonStatus
from discovery.testing import free_port, within

CROWD = 200
"""Clients: more than the connections that are answered at a time."""
REQUEST = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


async def answer(port: int) -> bytes:
    """The answer to a client that asks as soon as it has connected, until its end."""
    loop = asyncio.get_running_loop()
    with socket.socket() as client:
        client.setblocking(False)
        await loop.sock_connect(client, ("127.0.0.1", port))
        await loop.sock_sendall(client, REQUEST)
        text = b""
        while part := await loop.sock_recv(client, 65536):
            text += part
        return text


@pytest.mark.parametrize("silent", [0, 40], ids=["all ask", "some never ask"])
async def test_a_crowd_is_answered(silent: int) -> None:
    port, admin = free_port(), AdminPort(Sources(lambda: DaemonStatus("memory://")))
    await admin.start("127.0.0.1", port)
    quiet = [await asyncio.open_connection("127.0.0.1", port) for _ in range(silent)]
    try:
        async with asyncio.timeout(within(60)):
            answers = await asyncio.gather(*(answer(port) for _ in range(CROWD)), return_exceptions=True)
        first = Counter(each[:15] if isinstance(each, bytes) else repr(each) for each in answers)
        assert first == {b"HTTP/1.1 200 OK": CROWD}
    finally:
        for _, writer in quiet:
            writer.close()
        await admin.close()
