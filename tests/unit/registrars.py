"""A registrar at work on a registry in memory, and what the tests of it ask about that."""

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager, suppress
from functools import partial

import structlog

from discovery.codec import Record, decode
from discovery.model import Backend
from discovery.providing.registrar import Registrar
from discovery.providing.takeovers import TURN_SECONDS
from discovery.registry import Registry
from discovery.registry.memory import MemoryLease, MemoryRegistry
from discovery.system.backoff import delays
from discovery.testing import backend, eventually

A, B, C = backend(id="a", port=1), backend(id="b", port=2), backend(id="c", port=3)
SOON = partial(delays, 0.01, 0.05)
"""Seconds between attempts, in place of up to 10 s."""
OTHERS = b'{"host": "10.0.0.1", "port": 9, "owner": "other"}'


@asynccontextmanager
async def registering(
    registry: Registry,
    *backends: Backend,
    force: bool = False,
    takeover: bool = False,
    owner: str = "me",
    among: Collection[str] | None = None,
    ttl: float = 0.05,
    turn_seconds: float = TURN_SECONDS,
) -> AsyncIterator[Registrar]:
    registrar = Registrar(
        registry,
        owner,
        ttl,
        structlog.get_logger(),
        force=force,
        takeover=takeover,
        among=among,
        retries=SOON,
        turn_seconds=turn_seconds,
    )
    registrar.set(backends)
    running = asyncio.create_task(registrar.run())
    try:
        yield registrar
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running


def standing(registry: MemoryRegistry) -> dict[str, Backend]:
    records = {key: decode(key, value) for key, value in registry.records.items()}
    return {key: each.backend for key, each in records.items() if isinstance(each, Record) and each.owner == "me"}


def keys(*backends: Backend) -> dict[str, Backend]:
    return {f"{each.service}/{each.id}": each for each in backends}


async def leave(registry: MemoryRegistry, *backends: Backend) -> MemoryLease:
    """What a run that was killed leaves."""
    lease = await registry.open_lease("me", 60)
    for each in backends:
        await lease.put(each)
    return lease


async def becomes(registry: MemoryRegistry, *backends: Backend) -> None:
    await eventually(lambda: standing(registry) == keys(*backends))
