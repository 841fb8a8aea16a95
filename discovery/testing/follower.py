"""Follows a registry in a test, and checks that the watch obeys the protocol."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

from discovery.registry import Delta, Registry, Reset, Stale
from discovery.testing.support import eventually
from discovery.testing.watching import limited

PATIENCE = 10.0
"""Seconds for a change to arrive."""
_END_SECONDS = 15.0
"""Seconds for a watch to end."""


class Follower:
    """Follows a watch of `registry` and keeps its latest state, `records`. On one event loop.

    Checks that the watch obeys the protocol of `Registry`: a method that waits raises RuntimeError when the watch
    breaks the protocol.
    """

    def __init__(self, registry: Registry) -> None:
        """Create a follower of `registry`. `following` starts and stops the follower."""
        self.revision = 0
        self.records: dict[str, bytes] | None = None
        self.stale: str | None = None
        self.leases: dict[str, float] | None = None
        """The TTL in seconds of each leased record; None if the registry does not report leases."""
        self.stales: list[str] = []
        self.resets: list[Reset] = []
        self.deltas: list[Delta] = []
        self.states: dict[int, dict[str, bytes]] = {}
        self._copies: list[tuple[Reset | Delta, dict[str, bytes]]] = []
        """Each event, and the records that it had when it came."""
        self._registry = registry
        self.task: asyncio.Task[None] | None = None

    async def until(self, condition: Callable[[], object], what: str = "", timeout: float | None = None) -> None:
        """Wait until `condition` returns something true. `what` describes the condition in the message.

        Raises AssertionError after `timeout` seconds, by default 10, or the watch's own error. DISCOVERY_TEST_PATIENCE
        multiplies the seconds.
        """

        def holds() -> object:
            self.raise_end()
            return condition()

        await eventually(holds, what or "the watch to catch up", PATIENCE if timeout is None else timeout)

    def raise_end(self) -> None:
        """Raise the exception of the watch, or RuntimeError if the watch has ended by itself."""
        if self.task is not None and self.task.done():
            self.task.result()
            raise RuntimeError("the watch ended by itself")

    async def sees(self, key: str, value: bytes | None) -> None:
        """Wait until the record at `key` is `value`, or absent if `value` is None. Raises as `until` does."""
        await self.until(lambda: (self.records or {}).get(key) == value, f"{key} to be {value!r}")

    async def shows(self, records: Mapping[str, bytes]) -> None:
        """Wait until the registry has `records` and no others. Raises as `until` does."""
        await self.until(lambda: self.records == records, f"the records to be {records}")

    async def lists(self, *keys: str) -> None:
        """Wait until the registry has records at `keys` and at no other key. Raises as `until` does."""
        await self.until(lambda: (self.records or {}).keys() == set(keys), f"the keys to be {keys}")

    def changed_later(self) -> list[Reset | Delta]:
        """Return the events whose records have changed since they came, which no event may do."""
        return [event for event, records in self._copies if dict(_records(event)) != records]

    async def run(self) -> None:
        """Follow until cancelled; `following` runs this. Raises RuntimeError if the watch breaks the protocol."""
        events = self._registry.watch()
        try:
            async for event in events:
                self._take(event)
        finally:
            await events.aclose()

    def _take(self, event: Reset | Delta | Stale) -> None:
        if not isinstance(event, Stale):
            self._copies.append((event, dict(_records(event))))
        match event:
            case Stale(reason):
                if reason == self.stale:
                    raise RuntimeError(f"Stale({reason!r}) was reported twice")
                self.stale = reason
                self.stales.append(reason)
                return
            case Reset(revision, records):
                self.records = dict(records)
                self.leases = None if event.leases is None else dict(event.leases)
                if not (self.leases or {}).keys() <= self.records.keys():
                    raise RuntimeError(
                        f"leases of records that are not listed: {(self.leases or {}).keys() - self.records.keys()}"
                    )
                self.resets.append(event)
            case Delta(revision, puts, deletes):
                if self.records is None:
                    raise RuntimeError("a Delta came before the first Reset")
                if revision < self.revision or (revision == self.revision and (puts or deletes)):
                    raise RuntimeError(f"revision {revision} came after {self.revision}")
                if puts.keys() & deletes or not deletes <= self.records.keys():
                    raise RuntimeError(
                        f"deletes of unknown keys {deletes - self.records.keys()},"
                        f" or of keys that are also put {deletes & puts.keys()}"
                    )
                self.records = {k: v for k, v in self.records.items() if k not in deletes} | dict(puts)
                self.deltas.append(event)
                if self.leases is not None:
                    reported = event.leases or {}
                    kept = {key: ttl for key, ttl in self.leases.items() if key in self.records and key not in puts}
                    self.leases = kept | {key: ttl for key, ttl in reported.items() if key in puts or key in kept}
        self.stale = None
        self.revision = revision
        self.states[revision] = self.records


def _records(event: Reset | Delta) -> Mapping[str, bytes]:
    return event.records if isinstance(event, Reset) else event.puts


@asynccontextmanager
async def following(registry: Registry) -> AsyncIterator[Follower]:
    """Follow `registry` for a block, which begins when the first listing has arrived."""
    follower = Follower(registry)
    follower.task = task = asyncio.create_task(follower.run())
    try:
        await follower.until(lambda: follower.records is not None, "the first listing")
        yield follower
    finally:
        await cancelled(task)
        if not task.cancelled():
            task.result()


async def cancelled(task: "asyncio.Task[None]") -> None:
    """Cancel the task of a watch, and wait for a limited time until the task has ended."""
    task.cancel()
    with limited("a watch, after it was cancelled,", _END_SECONDS):
        await asyncio.wait({task})


async def contents(registry: Registry) -> dict[str, bytes]:
    """Return every record of `registry` now, by key. Raises AssertionError if no listing arrives in time."""
    async with following(registry) as follower:
        return dict(follower.records or {})
