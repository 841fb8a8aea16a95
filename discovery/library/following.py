"""Follows a registry on an event loop, and tells each change of what is known: snapshot, staleness, held records."""

import asyncio
import os
import sys
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass

from structlog.typing import FilteringBoundLogger

from discovery.consuming.following import RegistryFeed
from discovery.errors import RegistryError
from discovery.hosting.loading import open_registry
from discovery.library.selection import Selection
from discovery.library.settings import Place
from discovery.model import Snapshot
from discovery.registry import Lease, Registry, RegistryEvent
from discovery.system.asyncio_tools import wait_for_tasks

_CLOSE_SECONDS = 2.0
"""Seconds in which a registry closes its connections. A registry that hangs is left to the end of the process."""

_MOMENT = 0.01
"""Seconds between two looks whether a task that is about to end has ended."""


@dataclass(frozen=True, slots=True)
class FollowerState:
    """The knowledge of a registry. `true_at` is the wall-clock time at which `snapshot` was last known to be true."""

    snapshot: Snapshot | None = None
    stale: str | None = None
    from_disk: bool = False
    held: frozenset[str] = frozenset()
    true_at: float | None = None


class FollowedRegistry:
    """A registry that `run` follows until cancelled. `changed` is called, on the loop, with each new state."""

    def __init__(
        self,
        place: Place,
        selection: Selection,
        log: FilteringBoundLogger,
        changed: Callable[[FollowerState], None],
    ) -> None:
        """Prepare. No I/O."""
        self._place = place
        self._selection = selection
        self._changed = changed
        self._ended = asyncio.Event()
        self._feed = RegistryFeed(log, lambda _: self._tell(), self._ended.set)
        self._state = FollowerState()

    async def run(self) -> None:
        """Follow. Raises ConfigError or PluginError for a registry that cannot be opened.

        Raises whatever a plugin's registry raises, and RegistryError if its watch ends.
        """
        registry = open_quietly(self._place)
        feed = self._feed
        try:
            await feed.follow(_Told(registry, self._tell), self._place.registry, self._place.state())
            await self._ended.wait()
            while True:  # its task ends, with the reason, in a moment
                feed.raise_if_failed()
                await asyncio.sleep(_MOMENT)
        finally:
            await feed.stop()
            await close_in_time(registry)

    def _tell(self) -> None:
        feed = self._feed
        selected = None if feed.snapshot is None else self._selection.of(feed.snapshot)
        true_at = None
        if feed.snapshot_time is not None and (feed.stale is not None or feed.from_disk):
            true_at = time.time() - (time.monotonic() - feed.snapshot_time)
            if self._state.true_at is not None and self._state.snapshot is selected:
                true_at = self._state.true_at  # computed again, it would differ by microseconds
        state = FollowerState(selected, feed.stale, feed.from_disk, frozenset(feed.held), true_at)
        if state != self._state or state.snapshot is not self._state.snapshot:
            self._state = state
            self._changed(state)


class _Told:
    """A registry that calls `told` after the reader of a watch has taken an event in."""

    def __init__(self, registry: Registry, told: Callable[[], None]) -> None:
        self._registry = registry
        self._told = told

    async def watch(self) -> AsyncGenerator[RegistryEvent, None]:
        """See `Registry.watch`. Raises RegistryError at the end, which no registry should come to."""
        async with aclosing(self._registry.watch()) as events:
            async for event in events:
                yield event
                self._told()
        raise RegistryError("the registry has ended the watch")

    async def open_lease(self, owner: str, ttl: float) -> Lease:
        """See `Registry.open_lease`."""
        return await self._registry.open_lease(owner, ttl)

    async def close(self) -> None:
        """See `Registry.close`."""
        await self._registry.close()


def open_quietly(place: Place) -> Registry:
    """Return the registry of `place`. Raises ConfigError or PluginError."""
    if "grpc" not in sys.modules:  # read once, when grpc is loaded: it would write lines of its own to stderr
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    return open_registry(place.registry)


async def close_in_time(registry: Registry) -> None:
    """Close `registry`, and do not wait for a registry that hangs. A failure of the registry is not raised."""
    closing = asyncio.ensure_future(registry.close())
    if await wait_for_tasks({closing}, _CLOSE_SECONDS) and not closing.cancelled():
        closing.exception()
