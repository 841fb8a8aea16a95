"""TCP connections: pipelined queries, and clients that are slow, silent, greedy or hostile."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import dns.rcode
import pytest

from discovery import Backend, split_host_port
from discovery.testing import backend, eventually, within
from discovery_dns.limits import Limits

from .asking import data, query
from .driving import Driven, TcpClient, address, driving, tcp, udp

WEB = backend(host="10.0.0.1")
MANY = [Backend("web", f"{n}", f"10.0.{n // 250}.{n % 250}", 80) for n in range(2000)]


@asynccontextmanager
async def connected(*backends: Backend, **options: Any) -> AsyncIterator[tuple[Driven, TcpClient]]:
    """A server for these backends, `WEB` by default, and a client that is connected."""
    bind = address()
    async with driving(listen=bind, **options) as driven:
        await driven.apply(*(backends or (WEB,)))
        client = await TcpClient.to(bind)
        try:
            yield driven, client
        finally:
            client.close()


async def test_pipelined_queries_are_answered_in_order() -> None:
    async with connected() as (_, client):
        asked = [query("web") for _ in range(300)]
        client.send(*(each.to_wire() for each in asked))
        client.writer.write_eof()
        for each in asked:
            assert each.is_response(await client.answer())
        assert await client.is_closed()


async def test_a_query_may_come_in_pieces() -> None:
    async with connected() as (_, client):
        packet = query("web").to_wire()
        for byte in len(packet).to_bytes(2, "big") + packet:
            client.writer.write(bytes((byte,)))
            await client.writer.drain()
        assert data(await client.answer()) == ["10.0.0.1"]


@pytest.mark.parametrize("sent", [b"", b"\0", b"\0\x20", b"\0\x20partly"])
async def test_a_client_that_sends_no_complete_query_is_closed(sent: bytes) -> None:
    async with connected(tcp_idle_timeout="100ms") as (_, client):
        client.writer.write(sent)
        assert await client.is_closed()


async def test_a_client_that_sends_a_query_ever_so_slowly_is_closed() -> None:
    async with connected(tcp_idle_timeout="200ms") as (_, client):

        async def trickle() -> None:
            client.writer.write(b"\xff\xff")
            while True:
                client.writer.write(b"x")
                await asyncio.sleep(0.01)  # ten bytes and more within the time that a connection may be idle

        trickling = asyncio.create_task(trickle())
        assert await client.is_closed()
        trickling.cancel()


async def test_a_query_of_full_length_is_refused_and_the_next_is_answered() -> None:
    async with connected() as (_, client):
        packet = query("web").to_wire()
        client.send(packet.ljust(65535, b"\0"), packet)
        refused = await client.answer()
        assert (refused.rcode(), refused.id) == (dns.rcode.FORMERR, int.from_bytes(packet[:2], "big"))
        assert data(await client.answer()) == ["10.0.0.1"]


async def test_many_silent_connections_keep_nobody_from_an_answer() -> None:
    bind = address()
    async with driving(listen=bind, tcp_connections=20) as driven:
        await driven.apply(WEB)
        silent = [await TcpClient.to(bind) for _ in range(200)]
        assert data(await tcp(bind, "web")) == ["10.0.0.1"]
        assert data(await udp(bind, "web")) == ["10.0.0.1"]
        await eventually(lambda: driven.figure("tcp_displaced") >= 180)
        await eventually(lambda: driven.figure("tcp_connections") <= 20)
        for client in silent:
            client.close()


async def test_connections_that_come_at_once_keep_the_limit_and_so_do_those_before_a_smaller_limit() -> None:
    bind = address()
    async with driving(listen=bind, tcp_connections=20) as driven:
        some = [socket.socket() for _ in range(100)]
        for each in some:
            each.connect(split_host_port(bind))  # nothing else runs meanwhile: they wait to be accepted
        await driven.apply(WEB)
        await eventually(lambda: driven.figure("tcp_displaced") == 80)
        assert driven.figure("tcp_connections") == 20
        config = driven.config.model_copy(update={"tcp_connections": 5})
        assert await driven.consumer.reconfigure(config)  # type: ignore[arg-type]
        assert data(await tcp(bind, "web")) == ["10.0.0.1"]
        await eventually(lambda: driven.figure("tcp_connections") <= 5)
        for each in some:
            each.close()


async def test_bytes_that_are_no_query_end_the_connection() -> None:
    bind = address()
    async with driving(listen=bind) as driven:
        await driven.apply(WEB)
        for packet in (b"", b"GET / HTTP", bytes((0, 0, 0x80)) + bytes(9)):
            client = await TcpClient.to(bind)
            client.send(packet, query("web").to_wire())
            assert await client.is_closed()
            client.close()


async def test_a_client_that_does_not_read_costs_little_and_is_cut_off() -> None:
    async with connected(*MANY, tcp_idle_timeout="300ms") as (driven, client):
        packet = query("web").to_wire()
        flooding = asyncio.create_task(flood(client, packet))
        await eventually(lambda: driven.figure("tcp_connections") == 1)
        await eventually(lambda: driven.figure("tcp_connections") == 0, "the end of the greedy connection")
        async with asyncio.timeout(within(10)):
            await flooding
        assert driven.figure("queries") < 1000  # of 32 KB each; the buffers of the kernel are a few MB


async def flood(client: TcpClient, packet: bytes) -> None:
    """Send queries until the server ends the connection."""
    try:
        while True:
            client.send(*[packet] * 100)
            await client.writer.drain()
    except ConnectionError:
        return


async def test_one_connection_too_many_closes_the_one_that_is_idle_the_longest() -> None:
    bind = address()
    async with driving(listen=bind, tcp_connections=2) as driven:
        await driven.apply(WEB)
        first, second = await TcpClient.to(bind), await TcpClient.to(bind)
        for client in (first, second, first):
            client.send(query("web").to_wire())
            await client.answer()
        third = await TcpClient.to(bind)
        assert await second.is_closed()
        for client in (first, third):
            client.send(query("web").to_wire())
            assert data(await client.answer()) == ["10.0.0.1"]
        assert driven.figure("tcp_displaced") == 1
        for client in (first, second, third):
            client.close()


async def test_an_open_connection_does_not_delay_the_end() -> None:
    async with connected() as (driven, client):
        client.send(query("web").to_wire())
        await client.answer()
        async with asyncio.timeout(within(1.5)):
            await driven.consumer.teardown()
        assert await client.is_closed()


async def test_what_was_asked_before_the_end_is_answered() -> None:
    bind = address()
    async with driving(listen=bind, limits=Limits(first_query=60)) as driven:
        await driven.apply(WEB)
        early, late, answered = [await TcpClient.to(bind) for _ in range(3)]
        for client in (answered, early, early):
            client.send(query("web").to_wire())
        assert data(await answered.answer()) == ["10.0.0.1"]
        await eventually(lambda: driven.figure("tcp_connections") == 3)
        early.send(*[query("web").to_wire()] * 100)  # not read yet by the server
        ending = asyncio.create_task(driven.consumer.teardown())
        assert await answered.is_closed()
        late.send(query("web").to_wire())
        assert data(await late.answer()) == ["10.0.0.1"]
        for _ in range(102):
            assert data(await early.answer()) == ["10.0.0.1"]
        assert await late.is_closed()
        assert await early.is_closed()
        await ending
        for client in (early, late, answered):
            client.close()


async def test_a_connection_without_a_query_hardly_delays_the_end() -> None:
    async with connected(limits=Limits(last_answers=60)) as (driven, client):
        async with asyncio.timeout(within(10)):
            await driven.consumer.teardown()
        assert await client.is_closed()
