"""nginx, httpd and Caddy pass on what a backend sends while the backend goes on: server-sent events, long polling."""

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

REQUEST = b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
EVENT = b"9\r\ndata: 1\n\n\r\n"


@pytest.mark.parametrize("kind", sampled(PROXIES), ids=lambda kind: kind.file_name)
async def test_an_event_is_passed_on_before_the_answer_ends(kind: type[ProxyConsumer[Any]], tmp_path: Path) -> None:
    require(kind)
    seen = asyncio.Queue[None]()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(HEAD)
        for _ in range(3):
            writer.write(EVENT)
            await seen.get()
        writer.write(b"0\r\n\r\n")
        writer.close()

    port = free_port()
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server, driven(kind, {"bind": f"127.0.0.1:{port}"}, tmp_path) as driver:
        await driver.apply(Backend("web", "1", "127.0.0.1", server.sockets[0].getsockname()[1]))
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        async with asyncio.timeout(within(10)):
            writer.write(REQUEST)
            assert b" 200 " in await reader.readline()
            for _ in range(3):
                await reader.readuntil(b"data: 1\n\n")
                seen.put_nowait(None)
            assert b"data" not in await reader.read()
        writer.close()
