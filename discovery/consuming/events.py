"""The events of a registry, whatever its watch does: a fault becomes a Stale, and the watch is begun again.

The watch of a plugin may raise, end, go back or yield anything. What follows the registry relies on the protocol.
"""

import asyncio
import math
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import aclosing
from typing import Any

from discovery.errors import RegistryError, describe
from discovery.registry import Delta, History, Registry, RegistryEvent, Reset, Stale
from discovery.system.asyncio_tools import is_being_cancelled
from discovery.system.backoff import delays

LASTING = 60.0
"""Seconds after which a watch counts as one that works: twice the longest delay between two attempts."""


async def contained_events(
    registry: Registry,
    report: Callable[[BaseException], None] = lambda _: None,
    retries: Callable[[], Iterator[float]] = delays,
) -> AsyncGenerator[RegistryEvent, None]:
    """Yield the events of `registry` forever, as the protocol has them; close the generator to stop.

    After each fault of the watch there is a Stale with the reason, and after a delay another watch. `report` is called
    with the exception. `retries` returns the delays in seconds, which begin anew once a watch has worked.
    """
    waits = retries()
    while True:
        begun = time.monotonic()
        try:
            async with aclosing(_checked_events(registry)) as events:
                async for event in events:
                    yield event
            fault: BaseException = RegistryError("it has ended by itself")
        except BaseException as error:  # a plugin's registry may raise anything, SystemExit too
            own = isinstance(error, asyncio.CancelledError) and is_being_cancelled()
            if own or isinstance(error, GeneratorExit | KeyboardInterrupt):
                raise
            fault = error
        report(fault)
        yield Stale(f"the watch of the registry failed: {describe(fault)}")
        if time.monotonic() - begun > LASTING:
            waits = retries()
        await asyncio.sleep(next(waits))


async def _checked_events(registry: Registry) -> AsyncGenerator[RegistryEvent, None]:
    """Yield the events of a single watch. Raises RegistryError for what is no event, or comes out of order."""
    revision: int | None = None
    async with aclosing(registry.watch()) as events:
        async for event in events:
            fault = _fault(event)
            if fault is None and isinstance(event, Delta):
                if revision is None:
                    fault = f"a change at revision {event.revision} comes before the first listing"
                elif event.revision < revision:
                    fault = f"revision {event.revision} comes after {revision}"
            if fault is not None:
                raise RegistryError(fault)
            if not isinstance(event, Stale):
                revision = event.revision
            yield event


def _fault(event: object) -> str | None:
    """Return the reason why `event` is no valid event, or None."""
    if isinstance(event, Stale):
        reason: Any = event.reason
        return None if isinstance(reason, str) else f"the reason of a Stale is {_shown(reason)}"
    if isinstance(event, Reset):
        return _fault_of_revision(event) or _fault_of_records(event.records) or _fault_of_history(event.history)
    if isinstance(event, Delta):
        return _fault_of_revision(event) or _fault_of_records(event.puts) or _fault_of_deletes(event.deletes)
    return f"it yields {_shown(event)}, which is no event"


def _fault_of_revision(event: Reset | Delta) -> str | None:
    revision: Any = event.revision
    if not _is_int(revision):
        return f"a revision is {_shown(revision)}"
    return _fault_of_leases(event.leases)


def _fault_of_history(history: Any) -> str | None:
    if history is None:
        return None
    parts: tuple[Any, Any] = (history.store, history.term) if isinstance(history, History) else (None, None)
    is_valid = isinstance(parts[0], str) and _is_int(parts[1])
    return None if is_valid else f"the history of a Reset is {_shown(history)}"


def _fault_of_deletes(deletes: Any) -> str | None:
    if not isinstance(deletes, frozenset | set):
        return f"deletes are {_shown(deletes)}, which is no frozenset"
    return next((f"{_shown(key)} is deleted, which is no key" for key in deletes if not isinstance(key, str)), None)


def _fault_of_records(records: Any) -> str | None:
    if not isinstance(records, Mapping):
        return f"records are {_shown(records)}, which is no mapping"
    for key, value in records.items():
        if not isinstance(key, str):
            return f"{_shown(key)} is the key of a record"
        if not isinstance(value, bytes):
            return f"the value of the record {key!r} is {_shown(value)}, and not bytes"
    return None


def _fault_of_leases(leases: Any) -> str | None:
    if leases is None:
        return None
    if not isinstance(leases, Mapping):
        return f"leases are {_shown(leases)}, which is no mapping"
    for key, ttl in leases.items():
        # Of JSON's numbers: the TTLs are kept on disk.
        if not isinstance(key, str) or not (_is_int(ttl) or (isinstance(ttl, float) and math.isfinite(ttl))):
            return f"the lease of {key!r} is {_shown(ttl)}, and not a number of seconds"
    return None


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) < 60 else f"a {type(value).__name__}"
