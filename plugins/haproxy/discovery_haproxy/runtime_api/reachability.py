"""Connections to targets, as HAProxy's TCP check makes them, before a server gets traffic."""

import asyncio
from collections.abc import Iterable

from discovery_haproxy.runtime_api.planner import Connect

_CONNECT_SECONDS = 0.25
"""Seconds for a connection. A target that needs longer is left to HAProxy's check; the change waits no longer."""
_CONCURRENT = 64
"""Connections at the same time: enough for a large change, and few of the process's descriptors."""


async def reachable(targets: Iterable[Connect]) -> frozenset[Connect]:
    """Return the targets that accept a TCP connection."""
    slots = asyncio.Semaphore(_CONCURRENT)

    async def accepts(target: Connect) -> bool:
        async with slots:
            try:
                async with asyncio.timeout(_CONNECT_SECONDS):
                    _, writer = await asyncio.open_connection(str(target.address), target.port)
            except (OSError, TimeoutError):
                return False
            writer.transport.abort()
            return True

    wanted = list(dict.fromkeys(targets))
    answers = await asyncio.gather(*map(accepts, wanted))
    return frozenset(target for target, answer in zip(wanted, answers, strict=True) if answer)
