"""The contract of registries finds what is lost in bursts, outages, beginnings and races. A fault for each class."""

import asyncio
from collections.abc import AsyncGenerator, Collection
from dataclasses import replace
from typing import Any

import pytest
from sound_registries import MemoryContract, leasing, little_patience
from wrong_plugins import faults, message, messages

from discovery import Backend
from discovery.errors import OwnedByAnotherError
from discovery.registry import Delta, Record, RegistryEvent, Reset, Stale, decode, encode
from discovery.registry.memory import MemoryLease, MemoryRegistry

__all__ = ["little_patience"]

pytestmark = pytest.mark.usefixtures("little_patience")

HIGHER = "test_every_change_arrives_at_a_higher_revision"
AWAY = "test_an_outage_is_told_and_nothing_is_taken_away"
CALLS = "test_a_lease_tells_that_the_registry_is_away"
CHANGES = "test_a_change_and_a_delete_through_a_lease_arrive"
REMOVED = "test_an_owner_learns_that_its_record_was_removed"


class LosesADeleteInABurst(MemoryRegistry):
    async def watch(self) -> AsyncGenerator[RegistryEvent, None]:
        async for event in super().watch():
            is_burst = any(len(watch.pending) > 1 for watch in self._watches)
            yield replace(event, deletes=frozenset()) if isinstance(event, Delta) and is_burst else event


class LosesWhatChangesInAnOutage(MemoryRegistry):
    def set_fresh(self) -> None:
        for watch in self._watches:
            watch.pending.clear()
        super().set_fresh()


class CountsAnewAfterAnOutage(MemoryRegistry):
    begun = 0

    def set_fresh(self) -> None:
        self.begun = self.revision
        self.compact()
        super().set_fresh()

    async def watch(self) -> AsyncGenerator[RegistryEvent, None]:
        async for event in super().watch():
            yield event if isinstance(event, Stale) else replace(event, revision=event.revision - self.begun)


class TakesAnOutageForALoss(MemoryRegistry):
    def set_fresh(self) -> None:
        for watch in self._watches:
            watch.losses = -1
        super().set_fresh()


class SharesItsRecords(MemoryRegistry):
    async def watch(self) -> AsyncGenerator[RegistryEvent, None]:
        async for event in super().watch():
            yield replace(event, records=self.records) if isinstance(event, Reset) else event


class HasAGapAfterTheListing(MemoryRegistry):
    async def watch(self) -> AsyncGenerator[RegistryEvent, None]:
        events = super().watch()
        listed = False
        async for event in events:
            if isinstance(event, Reset) and not listed:
                listed = True
                await asyncio.sleep(0)
                await asyncio.sleep(0)
                for watch in self._watches:
                    watch.pending.clear()
            yield event


class GivesValuesOfAnotherType(MemoryRegistry):
    async def watch(self) -> AsyncGenerator[RegistryEvent, None]:
        async for event in super().watch():
            if isinstance(event, Reset):
                yield replace(event, records={key: bytearray(value) for key, value in event.records.items()})
            else:
                yield event


class RemovesBeforeItPuts(MemoryLease):
    async def put(self, backend: Backend, *, force: bool = False) -> None:
        there = self._registry.records.get(backend.key)
        if there not in (None, encode(backend, self.owner, self.ttl)) and self._registry.holder(backend.key) is self:
            self._registry.change({}, {backend.key}, holder=self)
        await super().put(backend, force=force)


class RemovesBeforeItTakesOver(MemoryLease):
    async def put(self, backend: Backend, *, force: bool = False) -> None:
        there = self._registry.records.get(backend.key)
        record = decode(backend.key, there) if there is not None else None
        if isinstance(record, Record) and record.owner == self.owner:
            self._registry.change({}, {backend.key}, holder=self)
        await super().put(backend, force=force)


class LooksAndThenPuts(MemoryLease):
    async def put(self, backend: Backend, *, force: bool = False) -> None:
        self._check()
        key, value = backend.key, encode(backend, self.owner, self.ttl)
        there = self._registry.records.get(key)
        record = decode(key, there) if there is not None else None
        owner = record.owner if isinstance(record, Record) else None
        if there is not None and owner != self.owner and not force:
            raise OwnedByAnotherError.of(key, repr(owner) if owner else "an unnamed owner", owner)
        await asyncio.sleep(0)
        if there != value or self._registry.holder(key) is not self:
            self._registry.change({key: value}, holder=self)


class DeletesWhatAnotherLeaseHolds(MemoryLease):
    async def delete(self, backend: Backend) -> None:
        self._check()
        there = self._registry.records.get(backend.key)
        record = decode(backend.key, there) if there is not None else None
        if isinstance(record, Record) and record.owner == self.owner:
            self._registry.change({}, {backend.key}, holder=self)


class LivesTenTimesAsLong(MemoryLease):
    def __init__(self, registry: MemoryRegistry, owner: str, ttl: float) -> None:
        super().__init__(registry, owner, ttl * 10)


class SweepsAllAmongNothing(MemoryLease):
    async def sweep(self, keep: Collection[str], among: Collection[str] | None = None) -> frozenset[str]:
        return await super().sweep(keep, among or None)


class IsLostInAnOutage(MemoryLease):
    async def lost(self) -> str:
        while not self._lost.done():
            if self._registry._stale is not None:
                return "the registry is away"
            await asyncio.sleep(0.002)
        return await super().lost()


class IsLostForOneThatWaits(MemoryLease):
    asked = False

    async def lost(self) -> str:
        if self.asked:
            await asyncio.Event().wait()
        self.asked = True
        return await super().lost()


class ForgetsItsLossWhenAWaitEnds(MemoryLease):
    async def lost(self) -> str:
        return await self._lost  # which a cancellation of the wait cancels as well


class StartsATaskForEachLease(MemoryLease):
    def __init__(self, registry: MemoryRegistry, owner: str, ttl: float) -> None:
        super().__init__(registry, owner, ttl)
        self.task = asyncio.create_task(asyncio.sleep(30))


FAULTS = (
    (LosesWhatChangesInAnOutage, "test_what_changes_in_an_outage_is_told_after_it", "what changes in an outage"),
    (CountsAnewAfterAnOutage, AWAY, "expected: a revision of at least"),
    (TakesAnOutageForALoss, AWAY, "the same history as before"),
    (SharesItsRecords, HIGHER, "events whose records never change"),
    (HasAGapAfterTheListing, "test_what_changes_while_a_watch_begins_is_told", "what changes while a watch begins"),
    (GivesValuesOfAnotherType, "test_first_comes_a_listing_of_everything", "values of type bytes"),
    (leasing(RemovesBeforeItPuts), CHANGES, "and never its removal before"),
    (leasing(RemovesBeforeItTakesOver), CHANGES, "and never its removal before"),
    (leasing(LooksAndThenPuts), "test_of_two_owners_that_put_at_once_one_is_refused", "one OwnedByAnotherError"),
    (leasing(DeletesWhatAnotherLeaseHolds), CHANGES, "the record, which another lease holds"),
    (leasing(LivesTenTimesAsLong), "test_a_lease_writes_the_record_with_its_owner", "as asked for"),
    (leasing(SweepsAllAmongNothing), "test_a_sweep_of_some_keys_alone_removes_no_others", "a sweep of some keys"),
    (leasing(IsLostInAnOutage), CALLS, "an outage shorter than its TTL"),
    (leasing(ForgetsItsLossWhenAWaitEnds), REMOVED, "an owner learns that its record was removed"),
    (leasing(StartsATaskForEachLease), "test_connections_and_leases_leave_nothing_behind", "as many tasks"),
    (LosesADeleteInABurst, "test_what_a_watch_adds_up_to_is_what_is_there", "what a watch adds up to"),
)
HANGS = ((leasing(IsLostForOneThatWaits), REMOVED, "lost, for each that waits,"),)


@faults(*FAULTS, *HANGS, most=4)
def test_a_race_of_a_registry_is_found(wrong: type[Any], test: str, clause: str) -> None:
    assert clause in message(MemoryContract, test, kind=wrong)


@pytest.mark.exhaustive
@faults(*FAULTS, *HANGS)
def test_the_whole_contract_finds_a_race_of_a_registry(wrong: type[Any], test: str, clause: str) -> None:
    found = messages(MemoryContract, kind=wrong)
    assert found
    assert all("breaks the clause" in each for each in found)
