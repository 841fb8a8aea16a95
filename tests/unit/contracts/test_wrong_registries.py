"""The contract of registries finds every wrong registry. Each class is named after its fault."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from sound_registries import MemoryContract, little_patience
from wrong_plugins import faults, message, messages

from discovery.registry import (
    Delta,
    History,
    RegistryEvent,
    Reset,
    Stale,
)
from discovery.registry.memory import MemoryLease, MemoryRegistry

__all__ = ["little_patience"]

pytestmark = pytest.mark.usefixtures("little_patience")

LISTED = "test_first_comes_a_listing_of_everything"
HIGHER = "test_every_change_arrives_at_a_higher_revision"
VALUES = "test_values_pass_through_as_they_are"
AWAY = "test_an_outage_is_told_and_nothing_is_taken_away"
BEGUN = "test_a_watch_that_begins_in_an_outage_waits_for_its_end"
SLOW = "test_a_slow_reader_misses_nothing"
ENDED = "test_a_watch_ends_when_it_is_closed_or_cancelled"
CLOSED = "test_a_connection_may_be_closed_twice_and_leaves_the_records"
OTHERS = "test_the_record_of_another_owner_is_left_alone"


class Changed(MemoryRegistry):
    """Tells changed events."""

    def event(self, event: RegistryEvent) -> RegistryEvent | None:
        return event

    async def watch(self) -> AsyncGenerator[RegistryEvent, None]:
        async for event in super().watch():
            changed = self.event(event)
            if changed is not None:
                yield changed


class TellsNoListing(Changed):
    def event(self, event: RegistryEvent) -> RegistryEvent | None:
        return None if isinstance(event, Reset) else event


class ListsNothing(Changed):
    def event(self, event: RegistryEvent) -> RegistryEvent | None:
        return replace(event, records={}, leases={}) if isinstance(event, Reset) else event


class DecodesValues(Changed):
    def event(self, event: RegistryEvent) -> RegistryEvent | None:
        if isinstance(event, Delta):
            puts = {key: value.decode(errors="ignore").encode() for key, value in event.puts.items()}
            return replace(event, puts=puts)
        return event


class StripsValues(Changed):
    def event(self, event: RegistryEvent) -> RegistryEvent | None:
        if isinstance(event, Delta):
            return replace(event, puts={key: value[:1000] for key, value in event.puts.items()})
        return event


class ForgetsDeletes(Changed):
    def event(self, event: RegistryEvent) -> RegistryEvent | None:
        return replace(event, deletes=frozenset()) if isinstance(event, Delta) else event


class RepeatsARevision(Changed):
    def event(self, event: RegistryEvent) -> RegistryEvent | None:
        return replace(event, revision=5) if isinstance(event, Delta | Reset) else event


class CountsBackwards(Changed):
    def event(self, event: RegistryEvent) -> RegistryEvent | None:
        return replace(event, revision=1000 - event.revision) if isinstance(event, Delta | Reset) else event


class KeepsThePrefix(Changed):
    def event(self, event: RegistryEvent) -> RegistryEvent | None:
        if isinstance(event, Reset):
            return replace(
                event, records={f"/services/{key}": value for key, value in event.records.items()}, leases={}
            )
        return event


class LowersKeys(Changed):
    def event(self, event: RegistryEvent) -> RegistryEvent | None:
        if isinstance(event, Reset):
            return replace(event, records={key.lower(): value for key, value in event.records.items()})
        return event


class LosesEverySecondChange(Changed):
    def event(self, event: RegistryEvent) -> RegistryEvent | None:
        return None if isinstance(event, Delta) and event.revision % 2 else event


class HasAHistoryOfItsOwnForEachWatch(Changed):
    count = 0

    def event(self, event: RegistryEvent) -> RegistryEvent | None:
        if isinstance(event, Reset):
            self.count += 1
            return replace(event, history=History(f"store {self.count}"))
        return event


class HidesAnOutage(Changed):
    def event(self, event: RegistryEvent) -> RegistryEvent | None:
        return None if isinstance(event, Stale) else event


class GivesNoReason(Changed):
    def event(self, event: RegistryEvent) -> RegistryEvent | None:
        return Stale("") if isinstance(event, Stale) else event


class EmptiesInAnOutage(Changed):
    async def watch(self) -> AsyncGenerator[RegistryEvent, None]:
        async for event in super().watch():
            yield event
            if isinstance(event, Stale):
                yield Reset(self.revision + 1, {})
                yield Stale(f"{event.reason} again")


class TellsAnOutageAgainAndAgain(Changed):
    async def watch(self) -> AsyncGenerator[RegistryEvent, None]:
        async for event in super().watch():
            yield event
            if isinstance(event, Stale):
                yield event


class EndsInAnOutage(Changed):
    async def watch(self) -> AsyncGenerator[RegistryEvent, None]:
        async for event in super().watch():
            yield event
            if isinstance(event, Stale):
                return


class RaisesInAnOutage(Changed):
    async def watch(self) -> AsyncGenerator[RegistryEvent, None]:
        async for event in super().watch():
            if isinstance(event, Stale):
                raise ConnectionError(event.reason)
            yield event


class StaysStale(Changed):
    was_stale = False

    def event(self, event: RegistryEvent) -> RegistryEvent | None:
        self.was_stale = self.was_stale or isinstance(event, Stale)
        return event if isinstance(event, Stale) or not self.was_stale else None


class ListsBeforeItIsBack(MemoryRegistry):
    async def watch(self) -> AsyncGenerator[RegistryEvent, None]:
        yield Reset(self.revision, {})
        async for event in super().watch():
            if not isinstance(event, Reset) or event.records:
                yield event


class DropsWhatIsNotRead(MemoryRegistry):
    async def watch(self) -> AsyncGenerator[RegistryEvent, None]:
        async for event in super().watch():
            yield event
            for watch in self._watches:
                while len(watch.pending) > 10:
                    watch.pending.popleft()


class IgnoresTheEnd(MemoryRegistry):
    async def watch(self) -> AsyncGenerator[RegistryEvent, None]:
        events = super().watch()
        try:
            async for event in events:
                yield event
        finally:
            yield Stale("one more")


class GoesOnWhenCancelled(MemoryRegistry):
    async def watch(self) -> AsyncGenerator[RegistryEvent, None]:
        with suppress(asyncio.CancelledError):
            async for event in super().watch():
                yield event


class KeepsATaskOfEachWatch(MemoryRegistry):
    async def watch(self) -> AsyncGenerator[RegistryEvent, None]:
        self.tasks = [*getattr(self, "tasks", []), asyncio.create_task(asyncio.sleep(3600))]
        async for event in super().watch():
            yield event

    async def close(self) -> None:
        for task in getattr(self, "tasks", []):
            task.cancel()


class LeavesATask(MemoryRegistry):
    async def open_lease(self, owner: str, ttl: float) -> MemoryLease:
        self.task = asyncio.create_task(asyncio.sleep(3600))
        return await super().open_lease(owner, ttl)


class ClosesOnce(MemoryRegistry):
    closed = False

    async def close(self) -> None:
        assert not self.closed, "closed before"
        self.closed = True


class WithdrawsAtClose(MemoryRegistry):
    async def close(self) -> None:
        self.change({}, [*self.records])


FAULTS = (
    (TellsNoListing, LISTED, "first comes a listing of everything"),
    (ListsNothing, LISTED, "first comes a listing of everything"),
    (DecodesValues, VALUES, "values pass through as they are"),
    (StripsValues, VALUES, "values pass through as they are"),
    (ForgetsDeletes, HIGHER, "every change arrives at a higher revision"),
    (RepeatsARevision, HIGHER, "revision 5 came after 5"),
    (CountsBackwards, HIGHER, "came after"),
    (KeepsThePrefix, LISTED, "/services/web/a"),
    (LowersKeys, "test_keys_pass_through_as_they_are", "keys pass through as they are"),
    (LosesEverySecondChange, HIGHER, "every change arrives at a higher revision"),
    (HasAHistoryOfItsOwnForEachWatch, "test_a_listing_tells_the_same_history_to_all", "the same history"),
    (HidesAnOutage, AWAY, "a Stale while the registry is away"),
    (GivesNoReason, AWAY, "an outage is told"),
    (EmptiesInAnOutage, AWAY, "no empty Reset"),
    (TellsAnOutageAgainAndAgain, AWAY, "was reported twice"),
    (EndsInAnOutage, AWAY, "the watch ended by itself"),
    (RaisesInAnOutage, AWAY, "ConnectionError: cut"),
    (StaysStale, AWAY, "an event that ends the Stale"),
    (ListsBeforeItIsBack, BEGUN, "no listing while the registry is away"),
    (DropsWhatIsNotRead, SLOW, "a slow reader misses nothing"),
    (IgnoresTheEnd, ENDED, "a watch ends when it is closed"),
    (GoesOnWhenCancelled, ENDED, "CancelledError from a watch that is cancelled"),
    (KeepsATaskOfEachWatch, "test_watches_leave_nothing_behind", "as many tasks after each watch"),
    (LeavesATask, OTHERS, "no task after the registry was closed"),
    (ClosesOnce, CLOSED, "closed before"),
    (WithdrawsAtClose, CLOSED, "after its connection was closed"),
)


@faults(*FAULTS)
def test_a_wrong_registry_is_found(wrong: type[Any], test: str, clause: str) -> None:
    assert clause in message(MemoryContract, test, kind=wrong)


@pytest.mark.exhaustive
@faults(*FAULTS)
def test_the_whole_contract_finds_a_wrong_registry(wrong: type[Any], test: str, clause: str) -> None:
    found = messages(MemoryContract, kind=wrong)
    assert found
    assert all("breaks the clause" in each for each in found)
