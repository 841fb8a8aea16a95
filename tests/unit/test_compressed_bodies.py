"""A compressed body stays as its client has sent it: to unpack it would cost the core's loop what the client likes."""

import asyncio
import gzip
import socket

from aiohttp import web

from discovery.system.httpserver import HttpServer
from discovery.testing import within

PACKED = gzip.compress(bytes(1_000_000))


async def test_a_compressed_body_is_not_unpacked() -> None:
    received: list[bytes] = []

    async def keep(request: web.Request) -> web.Response:
        received.append(await request.read())
        return web.Response()

    application = web.Application()
    application.add_routes([web.post("/", keep)])
    server = HttpServer(application, lambda: ())
    listening = socket.create_server(("127.0.0.1", 0))
    listening.setblocking(False)
    port = listening.getsockname()[1]
    await server.start([listening])
    try:
        for encoding in ("gzip", "deflate", "br", "zstd"):
            fields = f"Host: 127.0.0.1\r\nContent-Encoding: {encoding}\r\nContent-Length: {len(PACKED)}"
            async with asyncio.timeout(within(10)):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(f"POST / HTTP/1.1\r\n{fields}\r\n\r\n".encode() + PACKED)
                assert (await reader.read()).startswith(b"HTTP/1.1 200 ")
                writer.close()
    finally:
        await server.close()
    assert received == [PACKED] * 4
