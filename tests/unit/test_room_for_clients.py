"""Clients wait while all connections are taken: who makes room for them, and when."""

import asyncio
import ssl

import pytest
from aiohttp import web
from httpserving import ask, serving

from discovery.system import httpserver
from discovery.testing import within


async def test_an_answer_that_may_stay_makes_room_at_once() -> None:
    asked, full, over = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def handler(request: web.Request) -> web.StreamResponse:
        if asked.is_set():
            return web.Response()
        asked.set()
        await full.wait()
        assert server.keep(request)
        await over.wait()
        return web.Response()

    async with serving(handler) as (server, connect):
        server.most = 1
        await ask(await connect())
        await asyncio.wait_for(asked.wait(), within(60))
        waiting = await connect()
        await ask(waiting)
        await asyncio.sleep(0.05)  # so that the server has looked for room, and found none
        full.set()
        answer = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(waiting, 12), within(20))
        assert b"HTTP/1.1 200".startswith(answer), "TCP may bring a part"
        assert answer
        over.set()


async def test_a_client_of_tls_has_time_for_its_handshake_while_others_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(httpserver, "_SILENT_TLS_SECONDS", 600.0)

    async def handler(_: web.Request) -> web.StreamResponse:
        return web.Response()

    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    async with serving(handler, lambda: tls) as (server, connect):
        server.most = 1
        distant = await connect()
        await connect()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.get_running_loop().sock_recv(distant, 1), 5 * httpserver.SILENT_SECONDS)
