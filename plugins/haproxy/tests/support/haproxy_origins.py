"""Origins on every loopback address that are another HAProxy, and a real WebSocket origin behind them."""

import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from aiohttp import WSMsgType, web

from discovery.testing import eventually_sync, free_port, require_program

_TEXT = """\
global
    hard-stop-after 1s
defaults
    mode http
    timeout client 1m
    timeout connect 5s
    timeout server 1m
    timeout tunnel 1h
frontend origins
{binds}
    http-request return status 200 content-type text/plain lf-string "%[dst_port]" unless {{ hdr(Upgrade) -m found }}
    default_backend websockets
backend websockets
    server echo 127.0.0.1:{websockets}
"""


@contextmanager
def serve_origins(count: int, websockets: int = 1) -> Iterator[list[int]]:
    """Run `count` origins, and yield their ports. An origin answers with its port.

    WebSockets are passed on to the port `websockets` of 127.0.0.1.
    """
    ports = [free_port() for _ in range(count)]
    binds = "\n".join(f"    bind *:{port}" for port in ports)
    with tempfile.TemporaryDirectory(prefix="hx-") as directory:
        config = Path(directory, "origins.cfg")
        config.write_text(_TEXT.format(binds=binds, websockets=websockets))
        with subprocess.Popen([require_program("haproxy"), "-db", "-f", config], stderr=subprocess.DEVNULL) as process:
            try:
                eventually_sync(lambda: all(map(_accepts, ports)), "the origins to listen")
                yield ports
            finally:
                process.kill()


def _accepts(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


@asynccontextmanager
async def serve_websockets() -> AsyncIterator[int]:
    """Run a WebSocket origin, and yield its port. The origin returns each message."""

    async def echo(request: web.Request) -> web.WebSocketResponse:
        reply = web.WebSocketResponse()
        await reply.prepare(request)
        async for message in reply:
            if message.type is WSMsgType.TEXT:
                await reply.send_str(message.data)
        return reply

    application = web.Application()
    application.router.add_get("/", echo)
    runner = web.AppRunner(application)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", port := free_port())
        await site.start()
        yield port
    finally:
        await runner.cleanup()
