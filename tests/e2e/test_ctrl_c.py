"""Ctrl-C under load: every request that HAProxy has taken is answered."""

import asyncio
import os
import signal
from typing import Any

from daemons import RecordFiles, Starter

from discovery.testing import eventually, free_port, require_program

CLIENTS = 50


async def test_no_request_in_flight_is_cut(file_registry: RecordFiles, start_daemon: Starter) -> None:
    require_program("haproxy")
    url, write = file_registry
    bind = free_port()
    arrived = 0
    go_on = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal arrived
        await reader.readuntil(b"\r\n\r\n")
        arrived += 1
        await go_on.wait()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone")
        await writer.drain()
        writer.close()

    async def ask() -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", bind)
        writer.write(b"GET / HTTP/1.1\r\nHost: web\r\n\r\n")
        try:
            return await reader.readuntil(b"done")
        finally:
            writer.close()

    async def listening() -> bool:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", bind)
        except OSError:
            return False
        writer.close()
        return True

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as origin:
        write("web/a", f"127.0.0.1:{origin.sockets[0].getsockname()[1]}")
        options = (f"haproxy.services.web.bind=127.0.0.1:{bind}", "haproxy.services.web.check=false")
        settings = [word for option in options for word in ("--set", option)]
        daemon = start_daemon("--plugin", "haproxy", "--registry", url, *settings)
        await eventually(listening, timeout=20)
        asks = [asyncio.create_task(ask()) for _ in range(CLIENTS)]
        await eventually(lambda: arrived == CLIENTS)
        # As a terminal does it: to the whole foreground group.
        os.killpg(daemon.process.pid, signal.SIGINT)
        await eventually(lambda: "stopping" in daemon.log)
        await eventually(lambda: _not(listening()), "new connections to be refused")
        go_on.set()
        replies = await asyncio.gather(*asks)
        assert all(reply.startswith(b"HTTP/1.1 200 ") for reply in replies)
        assert await asyncio.to_thread(daemon.process.wait, 20) == 0


async def _not(condition: Any) -> bool:
    return not await condition
