"""The registry `sqlite:///PATH`: records in an SQLite file, for the programs of one machine.

`store.py` has the records and `lease.py` the leases. Put your own store in their place; the tests stay as they are.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from pathlib import Path
from weakref import WeakSet

from discovery import ConfigError, hookimpl
from discovery.registry import (
    Delta,
    History,
    RegistryEvent,
    RegistryFactory,
    RegistryUnavailableError,
    RegistryURL,
    Reset,
    Stale,
)

from discovery_sqlite.lease import SqliteLease
from discovery_sqlite.store import State, Store

_INTERVAL = 0.1
"""Seconds between two looks for changes."""


class SqliteRegistry:
    """Implements `discovery.registry.Registry`."""

    def __init__(self, path: Path) -> None:
        """Name the file. No I/O."""
        self._store = Store(path)
        self._leases: WeakSet[SqliteLease] = WeakSet()

    async def watch(self) -> AsyncGenerator[RegistryEvent, None]:
        """Yield a listing, and then the changes: faults are told, never raised."""
        known: State | None = None
        reported: str | None = None
        while True:
            try:
                state = await asyncio.to_thread(self._store.state, known)
            except RegistryUnavailableError as error:
                if str(error) != reported:
                    reported = str(error)
                    yield Stale(reported)
            else:
                event = _event(known, state)
                if event is None and reported is not None:
                    event = Delta(state.revision, {})  # nothing has changed, and the registry can be followed again
                known, reported = state, None
                if event is not None:
                    yield event
            await asyncio.sleep(_INTERVAL)

    async def open_lease(self, owner: str, ttl: float) -> SqliteLease:
        """Open a lease. Raises RegistryUnavailableError."""
        lease = await SqliteLease.open(self._store, owner, ttl)
        self._leases.add(lease)
        return lease

    async def close(self) -> None:
        """Renew open leases no longer: their records stay until the TTL is over. The file is open in a call alone."""
        for lease in list(self._leases):
            await lease.abandon()


def _event(known: State | None, state: State) -> RegistryEvent | None:
    """Return the event that leads from a state to the next; None if they are the same."""
    if known is None or known.store != state.store:
        return Reset(state.revision, state.records, state.ttls, History(state.store), another=known is not None)
    if known.revision == state.revision:
        return None
    puts = {key: value for key, value in state.records.items() if known.written.get(key) != state.written[key]}
    leases: Mapping[str, float] = {key: ttl for key, ttl in state.ttls.items() if key in puts}
    return Delta(state.revision, puts, frozenset(known.records.keys() - state.records.keys()), leases)


def from_url(url: RegistryURL) -> SqliteRegistry:
    """Return the registry of a URL. Raises ConfigError for a part that means nothing here."""
    if not url.path.strip("/") or url.endpoints or url.options or url.username:
        raise ConfigError(f"registry {url}: write sqlite:///PATH, the absolute path of a file")
    return SqliteRegistry(Path(url.path))


@hookimpl
def discovery_register_registries(register: Callable[[str, RegistryFactory], None]) -> None:
    """Offer the scheme `sqlite`."""
    register("sqlite", from_url)
