"""A registry in this process's memory, for tests and for trials of plugins without a server."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Collection, Iterable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import NamedTuple

from discovery.codec import Record, decode, encode
from discovery.errors import (
    CannotBeAskedError,
    ConfigError,
    LeaseLostError,
    OwnedByAnotherError,
    RegistryUnavailableError,
)
from discovery.model import Backend
from discovery.registry.base import Delta, RegistryEvent, Reset, Stale
from discovery.registry.url import RegistryURL
from discovery.system.asyncio_tools import cancel_and_wait


class _Request(NamedTuple):
    """A request of the lease `asker` for a record, to which the asker gives `value`."""

    asker: "MemoryLease"
    value: bytes
    ended: asyncio.Event


@dataclass(eq=False, slots=True)
class _Watch:
    pending: deque[Delta] = field(default_factory=deque)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    losses: int | None = None
    """The registry's number of losses at the watch's last listing; None before the first listing."""


class MemoryRegistry:
    """A registry that satisfies the whole protocol, with methods for tests that cause changes and faults.

    `put_raw` and `delete_raw` change records without a lease, as another client would. `set_stale` makes the registry
    unreachable, and `set_fresh` makes the registry reachable again. `compact` makes watches list again. `lose` removes
    all records and begins another history. Every method runs on the event loop.
    """

    def __init__(self) -> None:
        """Create an empty registry at revision 1."""
        self.revision = 1
        self.records: dict[str, bytes] = {}
        self._created: dict[str, int] = {}
        """The revision at which each record was created."""
        self._holders: dict[str, MemoryLease] = {}
        self._watches: set[_Watch] = set()
        self._stale: str | None = None
        self._losses = 0
        self._requests: dict[str, _Request] = {}
        self._asked = asyncio.Event()

    @classmethod
    def from_url(cls, url: RegistryURL) -> "MemoryRegistry":
        """Return a new registry for the URL `memory://`. Raises ConfigError for any other URL."""
        if url != RegistryURL("memory"):
            raise ConfigError(f"registry {url}: a memory registry has no name and no options: write memory://")
        return cls()

    async def watch(self) -> AsyncGenerator[RegistryEvent, None]:
        """See `Registry.watch`."""
        watch = _Watch()
        self._watches.add(watch)
        reported = None  # the reason of the Stale that was reported last, until the next other event
        try:
            while True:
                watch.changed.clear()
                if self._stale is not None:
                    if self._stale != reported:
                        reported = self._stale
                        yield Stale(reported)
                elif watch.losses != self._losses:
                    another = watch.losses is not None
                    watch.losses, reported = self._losses, None
                    watch.pending.clear()
                    leases = {key: holder.ttl for key, holder in self._holders.items()}
                    records, created = MappingProxyType(self.records.copy()), self._created.copy()
                    yield Reset(self.revision, records, leases, another=another, created=created)
                elif watch.pending:
                    delta = watch.pending.popleft()
                    yield delta if reported is None else replace(delta, present=self.revision)
                    reported = None
                    continue
                elif reported is not None:
                    reported = None
                    yield Delta(self.revision, {})
                await watch.changed.wait()
        finally:
            self._watches.discard(watch)

    async def open_lease(self, owner: str, ttl: float) -> "MemoryLease":
        """See `Registry.open_lease`."""
        self.check()
        return MemoryLease(self, owner, ttl)

    async def close(self) -> None:
        """See `Registry.close`."""

    def put_raw(self, key: str, value: bytes) -> None:
        """Write a record without a lease."""
        self.change({key: value})

    def delete_raw(self, key: str) -> None:
        """Remove a record, whichever lease holds the record."""
        self.change({}, {key})

    def set_stale(self, reason: str) -> None:
        """Make the registry unreachable: watches yield a Stale with `reason`, and leases cannot write."""
        self._stale = reason
        self._wake()

    def set_fresh(self) -> None:
        """Make the registry reachable again."""
        self._stale = None
        self._wake()

    def compact(self) -> None:
        """Forget the changes that watches have not told yet: each watch lists every record again."""
        for watch in self._watches:
            watch.losses = None
        self._wake()

    def lose(self) -> None:
        """Lose every record and lease, as a server whose data directory is removed. Revisions begin at 1 again."""
        holders, self._holders = set(self._holders.values()), {}
        self.records, self._created, self.revision, self._losses = {}, {}, 1, self._losses + 1
        for holder in holders:
            holder.lose("the registry has lost its records")
        self._wake()

    def check(self) -> None:
        """Raise RegistryUnavailableError while the registry is unreachable."""
        if self._stale is not None:
            raise RegistryUnavailableError(f"the memory registry is unreachable: {self._stale}")

    def holder(self, key: str) -> "MemoryLease | None":
        """Return the lease that holds the record at `key`, or None."""
        return self._holders.get(key)

    def held_by(self, lease: "MemoryLease") -> set[str]:
        """Return the keys of the records that `lease` holds."""
        return {key for key, holder in self._holders.items() if holder is lease}

    def change(
        self, puts: Mapping[str, bytes], deletes: Iterable[str] = (), holder: "MemoryLease | None" = None
    ) -> None:
        """Write and remove records in a single revision. `holder`, if given, is the lease of the written records."""
        gone = self.records.keys() & deletes
        for key in gone | puts.keys():
            loser = self._holders.pop(key, None)
            if loser is not None and loser is not holder:
                loser.lose(f"the record {key} was {'replaced' if key in puts else 'removed'} by another client")
        if not puts and not gone:
            return
        self.revision += 1
        for key in gone:
            del self.records[key], self._created[key]
        self.records.update(puts)
        created = {key: self._created.setdefault(key, self.revision) for key in puts}
        if holder is not None:
            self._holders.update(dict.fromkeys(puts, holder))
        leases = {} if holder is None else dict.fromkeys(puts, holder.ttl)
        delta = Delta(self.revision, MappingProxyType(dict(puts)), frozenset(gone), leases, created)
        for watch in self._watches:
            watch.pending.append(delta)
        self._wake()
        if not self._requests.keys().isdisjoint(puts):  # perhaps another holder than before, who answers
            self._asked.set()

    async def ask(self, key: str, value: bytes, asker: "MemoryLease") -> None:
        """Ask the holder of the record at `key` for the record; return when `asker` has it, with the value `value`."""
        request = _Request(asker, value, asyncio.Event())
        while (earlier := self._requests.setdefault(key, request)) is not request:
            await earlier.ended.wait()
        self._asked.set()
        try:
            await request.ended.wait()
        finally:
            request.ended.set()
            del self._requests[key]

    async def hand_over(self, holder: "MemoryLease") -> tuple[str, str]:
        """Wait until a record of `holder` is asked for, and hand the record over. Returns the key and the new owner."""
        while True:
            self._asked.clear()
            for key, request in self._requests.items():
                if self._holders.get(key) is holder is not request.asker:
                    del self._holders[key]
                    self.change({key: request.value}, holder=request.asker)
                    request.ended.set()
                    return key, request.asker.owner
            await self._asked.wait()

    def _wake(self) -> None:
        for watch in self._watches:
            watch.changed.set()


class MemoryLease:
    """A lease in a `MemoryRegistry`. The lease expires only after `freeze`: its owner is in the same process."""

    def __init__(self, registry: MemoryRegistry, owner: str, ttl: float) -> None:
        """Open the lease. For `MemoryRegistry.open_lease` alone."""
        self.owner = owner
        self.ttl = ttl
        self._registry = registry
        self._lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._expired = False
        self._expiry: asyncio.TimerHandle | None = None

    async def put(self, backend: Backend, *, force: bool = False) -> None:
        """See `Lease.put`."""
        key, value = backend.key, encode(backend, self.owner, self.ttl)
        self._check()
        there = self._registry.records.get(key)
        own = self._registry.holder(key) is self
        if there is not None and not own and not force:
            record = decode(key, there)
            owner = record.owner if isinstance(record, Record) else None
            if owner != self.owner:
                raise OwnedByAnotherError.of(key, repr(owner) if owner else "an unnamed owner", owner)
        if there != value or not own:
            self._registry.change({key: value}, holder=self)

    async def delete(self, backend: Backend) -> None:
        """See `Lease.delete`."""
        self._check()
        key = backend.key
        if self._registry.holder(key) is self:
            self._registry.change({}, {key}, holder=self)

    async def sweep(self, keep: Collection[str], among: Collection[str] | None = None) -> frozenset[str]:
        """See `Lease.sweep`."""
        self._check()
        held = self._registry.held_by(self)
        records = {key: decode(key, value) for key, value in self._registry.records.items() if key not in held}
        own = {key for key, record in records.items() if isinstance(record, Record) and record.owner == self.owner}
        stale = own.difference(keep) if among is None else own.intersection(among).difference(keep)
        self._registry.change({}, stale)
        return frozenset(stale)

    async def until_free(self, keys: Collection[str]) -> None:
        """See `TellsWhenFree.until_free`."""
        async with aclosing(self._registry.watch()) as events:
            async for _ in events:
                if not self._registry.records.keys() >= set(keys):
                    return

    async def take_over(self, backend: Backend) -> None:
        """See `HandsOver.take_over`."""
        key = backend.key
        while True:
            try:
                return await self.put(backend)
            except OwnedByAnotherError as error:
                if error.owner is None:
                    raise CannotBeAskedError.of(key, "an unnamed owner", None) from None
            asking = asyncio.ensure_future(self._registry.ask(key, encode(backend, self.owner, self.ttl), self))
            freed = asyncio.ensure_future(self.until_free({key}))
            try:
                await asyncio.wait({asking, freed}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                await cancel_and_wait(asking, freed)

    async def handed_over(self) -> tuple[str, str]:
        """See `HandsOver.handed_over`."""
        return await self._registry.hand_over(self)

    async def lost(self) -> str:
        """See `Lease.lost`."""
        return await asyncio.shield(self._lost)

    async def close(self) -> None:
        """See `Lease.close`."""
        self._end()

    def freeze(self) -> None:
        """Stop renewing the lease, as if its owner hung: the lease expires after its TTL, by the event loop's clock."""
        self._expiry = asyncio.get_running_loop().call_later(self.ttl, self._expire)

    def lose(self, reason: str) -> None:
        """End every wait in `lost` with `reason`; only the first reason counts."""
        if not self._lost.done():
            self._lost.set_result(reason)

    def _expire(self) -> None:
        self._expired = True
        self._end()
        self.lose(f"the lease of {self.owner} expired after {self.ttl:g} s without a renewal")

    def _end(self) -> None:
        if self._expiry is not None:
            self._expiry.cancel()
        self._registry.change({}, self._registry.held_by(self), holder=self)

    def _check(self) -> None:
        self._registry.check()
        if self._expired:
            raise LeaseLostError(f"the lease of {self.owner} has expired")
