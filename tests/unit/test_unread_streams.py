"""A client that reads nothing keeps no place among the streams, whatever is left to send to it."""

import asyncio
import socket

import pytest
from aiohttp import web

from discovery.system import httpserver
from discovery.system.httpserver import HttpServer
from discovery.testing import within


async def test_a_stream_that_has_ended_and_is_not_read_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(httpserver, "SERVE_SECONDS", 0.2)
    ended = asyncio.Event()
    kept: list[bool] = []

    async def stream(request: web.Request) -> web.StreamResponse:
        kept.append(server.keep(request))
        if not kept[-1]:
            return web.Response(status=503)
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            async with asyncio.timeout(0.2):  # as the live page: who does not read is given up
                while True:
                    await response.write(b"x" * 100_000)
        except TimeoutError:
            ended.set()
        return response

    application = web.Application()
    application.add_routes([web.get("/stream", stream)])
    server = HttpServer(application, lambda: ())
    server.most_streams = 1
    listening = socket.create_server(("127.0.0.1", 0))
    listening.setblocking(False)
    await server.start([listening])
    idle: list[socket.socket] = []

    async def ask() -> None:
        client = socket.socket()
        client.setblocking(False)
        idle.append(client)
        await asyncio.get_running_loop().sock_connect(client, listening.getsockname())
        await asyncio.get_running_loop().sock_sendall(client, b"GET /stream HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")

    try:
        await ask()
        await ended.wait()
        assert kept == [True]
        async with asyncio.timeout(within(10)):
            while len(kept) == 1 or not kept[-1]:
                await ask()
                await asyncio.sleep(0.05)
    finally:
        for client in idle:
            client.close()
        await server.close()
