"""Who answers without an end gets little through at a time: the core parses in one piece what has come."""

import asyncio
import socket
from contextlib import suppress

from discovery.fleet.announcement import Announcement
from discovery.fleet.asking import Asking
from discovery.testing import within

FLOOD = b"HTTP/1.1 102 Processing\r\n\r\n" * 100_000
MOST = 48 * 1024
"""Bytes: a few times what the kernel keeps for us, and a fraction of what it keeps by default."""


async def test_a_flood_of_interim_responses_is_taken_in_by_little() -> None:
    taken: list[int] = []

    async def hosts(_: str) -> list[tuple[socket.AddressFamily, str]]:
        return [(socket.AF_INET, "127.0.0.1")]

    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        host, port = listening.getsockname()
        since = "2026-01-31T12:00:00Z"
        announced = Announcement("0" * 16, host, port, "http", "1.0", "here", "/run", ("consumer",), since)
        asking = asyncio.create_task(Asking("here", ["127.0.0.0/8"], hosts, within(60)).ask(announced, ["0" * 16]))
        async with asyncio.timeout(within(30)):
            client, _ = await loop.sock_accept(listening)
            with client:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
                await loop.sock_recv(client, 65536)
                sent = 0
                with suppress(BlockingIOError):  # nobody reads meanwhile
                    while sent < len(FLOOD):
                        sent += client.send(FLOOD[sent:])
                taken.append(sent)
        asking.cancel()
        with suppress(asyncio.CancelledError):
            await asking
    assert 0 < taken[0] < MOST
