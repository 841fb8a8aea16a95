"""Tests of targets: how long a change waits for them."""

import asyncio
import socket
import time
from contextlib import ExitStack
from ipaddress import ip_address

from discovery.testing import within
from discovery_haproxy.limits import Limits
from discovery_haproxy.runtime_api.checks import Connect, Request
from discovery_haproxy.runtime_api.reachability import Results, try_targets


async def test_a_change_waits_for_few_of_many_targets_that_do_not_answer() -> None:
    # A busy machine opens 64 connections in more than the plugin's quarter of a second.
    limits = Limits(target=within(1), late_targets=60)
    with ExitStack() as stack:
        silent = stack.enter_context(socket.socket())
        silent.bind(("0.0.0.0", 0))
        silent.listen(0)
        port = silent.getsockname()[1]
        for _ in range(3):  # the kernel answers no further client
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(("127.0.0.1", port))
        open_ = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        answering = Connect(ip_address("127.0.0.1"), open_.getsockname()[1])
        targets = [answering, Connect(ip_address("127.0.0.1"), port)]
        assert await try_targets(targets, limits) == Results(frozenset({answering}), frozenset(targets[1:]))
        addresses = (ip_address(f"127.0.{number // 250}.{number % 250 + 1}") for number in range(1000))
        many = [answering, *(Connect(address, port) for address in addresses)]
        started = time.monotonic()
        passed, late = await try_targets(many, limits)
        assert time.monotonic() - started < within(3)
        assert passed == {answering}
        assert late == set(many[1:])


async def test_a_target_that_sends_no_line_fails() -> None:
    async def chatter(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"x" * 500_000)

    async with await asyncio.start_server(chatter, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        target = Request(ip_address("127.0.0.1"), port, "GET", "/", "example", ((200, 399),))
        assert await try_targets([target]) == Results(frozenset(), frozenset())
