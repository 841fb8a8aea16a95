"""A client that has gone is no fault of ours, and gets no place of another connection."""

import asyncio
import logging
import ssl

import pytest
from aiohttp import web
from httpserving import ask, serving

from discovery.testing import eventually, within


async def gone(request: web.Request) -> None:
    await eventually(lambda: request.transport is None, "the client to have gone", timeout=60)


async def test_an_answer_that_nobody_waits_for_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    asked, over = asyncio.Event(), asyncio.Event()

    async def handler(request: web.Request) -> web.StreamResponse:
        asked.set()
        await gone(request)
        response = web.StreamResponse()
        try:
            await response.prepare(request)
        finally:
            over.set()
        return response

    with caplog.at_level(logging.DEBUG):
        async with serving(handler) as (_, connect):
            client = await connect()
            await ask(client)
            await asyncio.wait_for(asked.wait(), within(60))
            client.close()
            await asyncio.wait_for(over.wait(), within(60))
    assert [each for each in caplog.records if each.levelno > logging.DEBUG] == []


async def test_a_body_whose_connection_has_ended_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    """The connection ends in the same turn of the event loop in which the head of its request comes."""
    asked: list[str] = []
    over = asyncio.Event()

    async def handler(request: web.Request) -> web.StreamResponse:
        asked.append(request.method)
        return web.Response()

    with caplog.at_level(logging.DEBUG):
        async with serving(handler) as (server, connect):
            first = await connect()
            await eventually(lambda: [each.transport for each in server._connections] not in ([], [None]), timeout=60)
            (connection,) = server._connections
            usual = connection.data_received

            def receive(data: bytes) -> None:
                usual(data)
                connection.abort()
                over.set()

            connection.data_received = receive  # type: ignore[method-assign]
            first.send(b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 10\r\n\r\n")
            await asyncio.wait_for(over.wait(), within(60))
            second = await connect()
            await ask(second)
            assert await asyncio.wait_for(asyncio.get_running_loop().sock_recv(second, 12), within(60))
    assert asked == ["GET"]
    assert [each for each in caplog.records if each.levelno > logging.DEBUG] == []


async def test_a_fault_of_a_handler_whose_client_is_there_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def handler(_: web.Request) -> web.StreamResponse:
        raise ConnectionRefusedError("another server does not listen")

    async with serving(handler) as (_, connect):
        client = await connect()
        await ask(client)
        answer = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(client, 12), within(60))
    assert answer
    assert b"HTTP/1.1 500".startswith(answer), "TCP may bring a part"
    (record,) = (each for each in caplog.records if each.levelno > logging.DEBUG)
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], ConnectionRefusedError)


async def test_who_has_gone_keeps_no_connection_that_is_not_made_yet() -> None:
    """A connection has no transport before its handshake of TLS, and a request none after its client has gone."""
    ways: list[ssl.SSLContext | None] = [None, ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)]
    asked = asyncio.Event()
    kept: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    async def handler(request: web.Request) -> web.StreamResponse:
        asked.set()
        await gone(request)
        kept.set_result(server.keep(request))
        return web.Response()

    async with serving(handler, lambda: ways.pop(0)) as (server, connect):
        client = await connect()
        await ask(client)
        await asyncio.wait_for(asked.wait(), within(60))
        await connect()  # and says nothing
        await eventually(lambda: ways == [], "the handshake to begin", timeout=60)
        client.close()
        assert await asyncio.wait_for(kept, within(60)) is False
