"""Tests of targets, as HAProxy's check makes them, before a server gets traffic."""

import asyncio
import re
from collections.abc import Iterable
from typing import NamedTuple

from discovery_haproxy.runtime_api.checks import Connect, Request

_SECONDS = 0.25
"""Seconds for a test. A target that needs longer is left to HAProxy's check; the change waits no longer."""
_CONCURRENT = 64
"""Tests at the same time: enough for a large change, and few of the process's descriptors."""
_STATUS_LINE = re.compile(rb"HTTP/1\.[01] ([0-9]{3})[ \r\n]")


class Tested(NamedTuple):
    """Results of tests: the targets that passed, and those that did not answer in time. The others failed."""

    passed: frozenset[Connect | Request]
    late: frozenset[Connect | Request]


async def try_targets(targets: Iterable[Connect | Request]) -> Tested:
    """Find out which targets accept a TCP connection, or answer the request as expected."""
    slots = asyncio.Semaphore(_CONCURRENT)

    async def passes(target: Connect | Request) -> bool | None:
        async with slots:
            try:
                async with asyncio.timeout(_SECONDS):
                    return await _passes(target)
            except TimeoutError:
                return None
            except (OSError, EOFError, ValueError):
                return False

    wanted = list(dict.fromkeys(targets))
    answers = dict(zip(wanted, await asyncio.gather(*map(passes, wanted)), strict=True))
    passed = frozenset(target for target, answer in answers.items() if answer)
    return Tested(passed, frozenset(target for target, answer in answers.items() if answer is None))


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
