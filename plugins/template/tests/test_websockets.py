"""A WebSocket passes through nginx, httpd and Caddy."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from sampling import sampled
from template_driving import driven
from template_proxies import PROXIES, require

from discovery import Backend
from discovery.testing import free_port, within
from discovery_template.proxies.consumer import ProxyConsumer

HANDSHAKE = (
    b"GET /chat HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Switch to the other protocol if asked for, and answer in capitals."""
    head = await reader.readuntil(b"\r\n\r\n")
    if b"upgrade: websocket" in head.lower():
        writer.write(SWITCHED)
        # The words may arrive in parts: Caddy forwards a first byte alone when the client is faster than its switch.
        writer.write((await reader.readexactly(len(b"hello"))).upper())
        await writer.drain()
    writer.close()


@pytest.mark.parametrize("kind", sampled(PROXIES), ids=lambda kind: kind.file_name)
async def test_a_websocket_is_carried(kind: type[ProxyConsumer[Any]], tmp_path: Path) -> None:
    require(kind)
    port = free_port()
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server, driven(kind, {"bind": f"127.0.0.1:{port}"}, tmp_path) as driver:
        await driver.apply(Backend("web", "1", "127.0.0.1", server.sockets[0].getsockname()[1]))
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        async with asyncio.timeout(within(20)):
            writer.write(HANDSHAKE)
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 101 ")
            writer.write(b"hello")
            assert await reader.readexactly(len(b"hello")) == b"HELLO"
        writer.close()
