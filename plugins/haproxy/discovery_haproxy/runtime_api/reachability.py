"""Tests of targets, as HAProxy's check makes them, before a server gets traffic."""

import asyncio
import re
from collections.abc import Iterable
from typing import NamedTuple

from discovery_haproxy.runtime_api.checks import Connect, Request

_SECONDS = 0.25
"""Seconds for a test. A target that needs longer is left to HAProxy's check."""
_CONCURRENT = 64
"""Tests at the same time: enough for a large change, and few of the process's descriptors."""
_MOST_LATE = 4 * _CONCURRENT
"""Late targets after which the others count as late, untested: many silent targets hold up a change for 1 s."""
_STATUS_LINE = re.compile(rb"HTTP/1\.[01] ([0-9]{3})[ \r\n]")


class Results(NamedTuple):
    """Results of tests: the targets that passed, and those that did not answer in time. The others failed."""

    passed: frozenset[Connect | Request]
    late: frozenset[Connect | Request]


async def try_targets(targets: Iterable[Connect | Request]) -> Results:
    """Find out which targets accept a TCP connection, or answer the request as expected."""
    slots = asyncio.Semaphore(_CONCURRENT)
    passed, late = set[Connect | Request](), set[Connect | Request]()

    async def try_one(target: Connect | Request) -> None:
        async with slots:
            if len(late) >= _MOST_LATE:
                late.add(target)
                return
            try:
                async with asyncio.timeout(_SECONDS):
                    if await _passes(target):
                        passed.add(target)
            except TimeoutError:
                late.add(target)
            except (OSError, EOFError, ValueError):
                return

    await asyncio.gather(*map(try_one, dict.fromkeys(targets)))
    return Results(frozenset(passed), frozenset(late))


async def _passes(target: Connect | Request) -> bool:
    reader, writer = await asyncio.open_connection(str(target.address), target.port)
    try:
        if isinstance(target, Connect):
            return True
        request = f"{target.method} {target.uri} HTTP/1.1\r\nHost: {target.host}\r\nConnection: close\r\n\r\n"
        writer.write(request.encode())
        found = _STATUS_LINE.match(await reader.readuntil(b"\n"))
        return found is not None and any(least <= int(found[1]) <= most for least, most in target.status)
    finally:
        writer.transport.abort()
