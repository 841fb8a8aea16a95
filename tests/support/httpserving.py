"""A server of the admin endpoint with a handler of a test, and clients of sockets."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from aiohttp import web

from discovery.system.httpserver import HttpServer

REQUEST = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Connect = Callable[[], Awaitable[socket.socket]]


@asynccontextmanager
async def serving(
    handler: Handler, tls: Callable[[], ssl.SSLContext | None] = lambda: None
) -> AsyncIterator[tuple[HttpServer, Connect]]:
    """A server with this handler, and what connects to it."""
    application = web.Application()
    application.add_routes([web.get("/", handler)])
    server = HttpServer(application, lambda: (), tls)
    listening = socket.create_server(("127.0.0.1", 0))
    listening.setblocking(False)
    await server.start([listening])
    clients: list[socket.socket] = []

    async def connect() -> socket.socket:
        client = socket.socket()
        client.setblocking(False)
        clients.append(client)
        await asyncio.get_running_loop().sock_connect(client, listening.getsockname())
        return client

    try:
        yield server, connect
    finally:
        for client in clients:
            client.close()
        await server.close()


async def ask(client: socket.socket) -> None:
    await asyncio.get_running_loop().sock_sendall(client, REQUEST)
