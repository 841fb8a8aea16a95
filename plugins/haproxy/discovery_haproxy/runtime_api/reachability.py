"""Tests of targets, as HAProxy's check makes them, before a server gets traffic."""

import asyncio
import errno
import os
import re
import socket
from collections.abc import Iterable
from enum import Enum, auto
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

from discovery_haproxy.limits import LIMITS, Limits
from discovery_haproxy.runtime_api.checks import Connect, Request

_CONCURRENT = 64
"""Tests at the same time: enough for a large change, and few of the process's descriptors."""
_STATUS_LINE = re.compile(rb"HTTP/1\.[01] ([0-9]{3})[ \r\n]")


class _Outcome(Enum):
    PASSED = auto()
    FAILED = auto()
    LATE = auto()


class Results(NamedTuple):
    """Results of tests: the targets that passed, and those that did not answer in time. The others failed."""

    passed: frozenset[Connect | Request]
    late: frozenset[Connect | Request]


_NONE: frozenset[Connect | Request] = frozenset()


async def try_targets(targets: Iterable[Connect | Request], limits: Limits = LIMITS) -> Results:
    """Find out which targets accept a TCP connection, or answer the request as expected."""
    distinct = dict.fromkeys(targets)
    if len(distinct) == 1:  # without a task, as for most changes
        [target] = distinct
        outcome, one = await _try(target, limits.target), frozenset(distinct)
        return Results(one if outcome is _Outcome.PASSED else _NONE, one if outcome is _Outcome.LATE else _NONE)
    passed, late = set[Connect | Request](), set[Connect | Request]()
    remaining = iter(distinct)

    async def try_some() -> None:
        for target in remaining:
            is_over = len(late) >= limits.late_targets
            outcome = _Outcome.LATE if is_over else await _try(target, limits.target)
            if outcome is not _Outcome.FAILED:
                (passed if outcome is _Outcome.PASSED else late).add(target)

    await asyncio.gather(*(try_some() for _ in range(min(len(distinct), _CONCURRENT))))
    return Results(frozenset(passed), frozenset(late))


async def _try(target: Connect | Request, seconds: float) -> _Outcome:
    try:
        if isinstance(target, Connect) and not isinstance(target.address, str):
            await _connect(target.address, target.port, seconds)
            return _Outcome.PASSED
        async with asyncio.timeout(seconds):
            return _Outcome.PASSED if await _passes(target) else _Outcome.FAILED
    except TimeoutError:
        return _Outcome.LATE
    except (OSError, EOFError, ValueError, asyncio.LimitOverrunError):  # the last for an endless line
        return _Outcome.FAILED


async def _connect(address: IPv4Address | IPv6Address, port: int, seconds: float) -> None:
    """Connect, at a tenth of the cost of asyncio's streams. Raises OSError, and TimeoutError if no answer comes."""
    place = str(address), port
    with socket.socket(socket.AF_INET if address.version == 4 else socket.AF_INET6) as client:
        client.setblocking(False)
        # The second call tells how the first has ended, at once for a target of this machine.
        error = client.connect_ex(place) and client.connect_ex(place)
        if error in (errno.EINPROGRESS, errno.EALREADY):
            async with asyncio.timeout(seconds):
                await asyncio.get_running_loop().sock_connect(client, place)
        elif error:
            raise OSError(error, os.strerror(error))


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
