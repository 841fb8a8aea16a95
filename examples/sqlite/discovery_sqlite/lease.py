"""A lease: its records stand while the lease is renewed."""

import asyncio
import time
import uuid
from collections.abc import Collection
from contextlib import suppress

from discovery import Backend
from discovery.registry import (
    LeaseLostError,
    OwnedByAnotherError,
    RegistryUnavailableError,
    encode,
)

from discovery_sqlite.store import Store, next_revision

_RENEWALS = 3
"""Renewals in a TTL: two may fail."""


class SqliteLease:
    """Implements `discovery.registry.Lease`."""

    def __init__(self, store: Store, owner: str, ttl: float) -> None:
        """Prepare; `open` makes leases."""
        self.owner = owner
        self.ttl = ttl
        self.id = str(uuid.uuid4())
        self._store = store
        self._keys: set[str] = set()
        self._renewed = time.monotonic()
        self._lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._renewing: asyncio.Task[None] | None = None

    @classmethod
    async def open(cls, store: Store, owner: str, ttl: float) -> "SqliteLease":
        """Return a lease that renews itself. Raises RegistryUnavailableError."""
        lease = cls(store, owner, ttl)
        await asyncio.to_thread(lease._insert)
        lease._renewing = asyncio.create_task(lease._renew())
        return lease

    async def put(self, backend: Backend, *, force: bool = False) -> None:
        """Write the record. Raises OwnedByAnotherError, LeaseLostError, RegistryUnavailableError or RecordError."""
        value = encode(backend, self.owner, self.ttl)
        await asyncio.to_thread(self._put, backend.key, value, force)
        self._keys.add(backend.key)

    async def delete(self, backend: Backend) -> None:
        """Remove the record if this lease has it."""
        self._keys.discard(backend.key)
        await asyncio.to_thread(self._delete, {backend.key}, self.id)

    async def sweep(self, keep: Collection[str], among: Collection[str] | None = None) -> frozenset[str]:
        """Remove what an earlier run of this owner left under another lease."""
        return await asyncio.to_thread(self._sweep, frozenset(keep), among)

    async def lost(self) -> str:
        """Wait until the lease has ended, or one of its records is another's or gone. Returns the reason."""
        return await asyncio.shield(self._lost)

    async def close(self) -> None:
        """Remove every record of the lease. Idempotent."""
        await self.abandon()
        with suppress(RegistryUnavailableError):
            await asyncio.to_thread(self._end)

    async def abandon(self) -> None:
        """Renew the lease no longer: its records stay until the TTL is over."""
        if self._renewing is not None:
            self._renewing.cancel()
            await asyncio.wait({self._renewing})

    async def _renew(self) -> None:
        while not self._lost.done():
            await asyncio.sleep(self.ttl / _RENEWALS)
            try:
                reason = await asyncio.to_thread(self._extend, frozenset(self._keys))
            except RegistryUnavailableError as error:
                reason = str(error) if time.monotonic() - self._renewed > self.ttl else None
            if reason is not None:
                self._lost.set_result(reason)

    def _insert(self) -> None:
        with self._store.changing() as database:
            database.execute("INSERT INTO leases VALUES (?, ?, ?)", (self.id, self.ttl, time.time() + self.ttl))

    def _extend(self, keys: frozenset[str]) -> str | None:
        """Renew the lease; return why it is lost, or None."""
        with self._store.changing() as database:
            renewed = database.execute("UPDATE leases SET expires = ? WHERE id = ?", (time.time() + self.ttl, self.id))
            if not renewed.rowcount:
                return f"the lease of {self.owner} has expired"
            rows = database.execute("SELECT key FROM records WHERE lease = ?", (self.id,)).fetchall()
        self._renewed = time.monotonic()
        missing = keys.intersection(self._keys).difference(key for (key,) in rows)
        return f"the record {min(missing)!r} was removed or replaced" if missing else None

    def _put(self, key: str, value: bytes, force: bool) -> None:
        with self._store.changing() as database:
            if not database.execute("SELECT 1 FROM leases WHERE id = ?", (self.id,)).fetchone():
                raise LeaseLostError(f"the lease of {self.owner} has expired")
            row = database.execute("SELECT value, owner, lease FROM records WHERE key = ?", (key,)).fetchone()
            if row is not None:
                there, owner, lease = row
                if lease == self.id and bytes(there) == value:
                    return
                if owner != self.owner and not force:
                    raise OwnedByAnotherError.of(key, repr(owner) if owner else "an unnamed owner", owner)
            record = (key, value, self.owner, self.id, next_revision(database))
            database.execute("INSERT OR REPLACE INTO records VALUES (?, ?, ?, ?, ?)", record)

    def _delete(self, keys: Collection[str], lease: str) -> None:
        with self._store.changing() as database:
            removed = [
                database.execute("DELETE FROM records WHERE key = ? AND lease = ?", (key, lease)).rowcount
                for key in keys
            ]
            if any(removed):
                next_revision(database)

    def _sweep(self, keep: frozenset[str], among: Collection[str] | None) -> frozenset[str]:
        with self._store.changing() as database:
            if not database.execute("SELECT 1 FROM leases WHERE id = ?", (self.id,)).fetchone():
                raise LeaseLostError(f"the lease of {self.owner} has expired")
            rows = database.execute(
                "SELECT key FROM records WHERE owner = ? AND lease IS NOT ?", (self.owner, self.id)
            ).fetchall()
            stale = {key for (key,) in rows if key not in keep and (among is None or key in among)}
            database.executemany("DELETE FROM records WHERE key = ?", [(key,) for key in stale])
            if stale:
                next_revision(database)
        return frozenset(stale)

    def _end(self) -> None:
        with self._store.changing() as database:
            removed = database.execute("DELETE FROM records WHERE lease = ?", (self.id,)).rowcount
            database.execute("DELETE FROM leases WHERE id = ?", (self.id,))
            if removed:
                next_revision(database)
