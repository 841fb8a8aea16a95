"""The contract of registries finds every registry with a wrong lease. Each class is named after its fault."""

import asyncio
from collections.abc import Collection
from contextlib import suppress
from typing import Any

import pytest
from sound_registries import MemoryContract, leasing, little_patience
from wrong_plugins import faults, message, messages

from discovery import Backend
from discovery.registry import (
    LeaseLostError,
    OwnedByAnotherError,
    RegistryUnavailableError,
)
from discovery.registry.memory import MemoryLease

__all__ = ["little_patience"]

pytestmark = pytest.mark.usefixtures("little_patience")

CALLS = "test_a_lease_tells_that_the_registry_is_away"
CLOSED = "test_a_connection_may_be_closed_twice_and_leaves_the_records"
OTHERS = "test_the_record_of_another_owner_is_left_alone"


class OverwritesOthers(MemoryLease):
    async def put(self, backend: Backend, *, force: bool = False) -> None:
        await super().put(backend, force=True)


class DeletesOfOthers(MemoryLease):
    async def delete(self, backend: Backend) -> None:
        self._registry.change({}, {backend.key})


class WritesEqualRecords(MemoryLease):
    async def put(self, backend: Backend, *, force: bool = False) -> None:
        await super().put(backend, force=force)
        self._registry.change({backend.key: self._registry.records[backend.key]}, holder=self)


class SweepsEverything(MemoryLease):
    async def sweep(self, keep: Collection[str], among: Collection[str] | None = None) -> frozenset[str]:
        swept = frozenset(self._registry.records.keys() - set(keep) - self._registry.held_by(self))
        self._registry.change({}, swept)
        return swept


class SweepsMoreThanItIsAsked(MemoryLease):
    async def sweep(self, keep: Collection[str], among: Collection[str] | None = None) -> frozenset[str]:
        return await super().sweep(keep)


class IsLostAtOnce(MemoryLease):
    async def lost(self) -> str:
        return "it is lost"


class IsNeverLost(MemoryLease):
    async def lost(self) -> str:
        return await asyncio.get_running_loop().create_future()  # type: ignore[no-any-return]


class ForgetsItsOwner(MemoryLease):
    async def put(self, backend: Backend, *, force: bool = False) -> None:
        owner, self.owner = self.owner, "somebody"
        try:
            await super().put(backend, force=force)
        finally:
            self.owner = owner


class PutsWhenExpired(MemoryLease):
    async def put(self, backend: Backend, *, force: bool = False) -> None:
        with suppress(LeaseLostError):
            await super().put(backend, force=force)


class LeavesRecordsBehind(MemoryLease):
    async def close(self) -> None:
        return


class RaisesAnotherErrorInAnOutage(MemoryLease):
    async def put(self, backend: Backend, *, force: bool = False) -> None:
        try:
            await super().put(backend, force=force)
        except RegistryUnavailableError as error:
            raise TimeoutError(str(error)) from error


class SucceedsInAnOutage(MemoryLease):
    async def delete(self, backend: Backend) -> None:
        with suppress(RegistryUnavailableError):
            await super().delete(backend)


class HangsInAnOutage(MemoryLease):
    async def sweep(self, keep: Collection[str], among: Collection[str] | None = None) -> frozenset[str]:
        while True:
            try:
                return await super().sweep(keep, among)
            except RegistryUnavailableError:
                await asyncio.sleep(0.01)


class CannotBeClosedInAnOutage(MemoryLease):
    async def close(self) -> None:
        self._registry.check()
        await super().close()


class RefusesWithoutAName(MemoryLease):
    async def put(self, backend: Backend, *, force: bool = False) -> None:
        try:
            await super().put(backend, force=force)
        except OwnedByAnotherError:
            raise OwnedByAnotherError("it is taken") from None


FAULTS = (
    (leasing(OverwritesOthers), OTHERS, "OwnedByAnotherError"),
    (leasing(DeletesOfOthers), OTHERS, "the record of another owner is left alone"),
    (leasing(WritesEqualRecords), "test_putting_the_same_again_writes_nothing", "putting the same again"),
    (leasing(SweepsEverything), "test_a_sweep_removes_what_an_earlier_run_left_and_nothing_else", "a sweep removes"),
    (leasing(SweepsMoreThanItIsAsked), "test_a_sweep_of_some_keys_alone_removes_no_others", "a sweep of some keys"),
    (leasing(IsLostAtOnce), CLOSED, "lost to wait while the lease is alive"),
    (leasing(ForgetsItsOwner), "test_a_lease_writes_the_record_with_its_owner", "with its owner"),
    (leasing(PutsWhenExpired), "test_an_expired_lease_loses_its_records_and_its_owner_learns_of_it", "LeaseLostError"),
    (leasing(LeavesRecordsBehind), "test_closing_a_lease_withdraws_its_records_alone", "withdraws its records"),
    (leasing(RaisesAnotherErrorInAnOutage), CALLS, "expected: RegistryUnavailableError"),
    (leasing(SucceedsInAnOutage), CALLS, "expected: RegistryUnavailableError"),
    (leasing(CannotBeClosedInAnOutage), CALLS, "a lease tells that the registry is away"),
    (leasing(RefusesWithoutAName), OTHERS, "OwnedByAnotherError with 'first'"),
)
HANGS = (
    (leasing(HangsInAnOutage), CALLS, "sweep, while the registry is away, has not returned"),
    (leasing(IsNeverLost), "test_an_owner_learns_that_its_record_was_removed", "lost, for each that waits,"),
)


@faults(*FAULTS)
def test_a_wrong_lease_is_found(wrong: type[Any], test: str, clause: str) -> None:
    assert clause in message(MemoryContract, test, kind=wrong)


@faults(*HANGS, most=1)
def test_a_lease_that_hangs_is_found(wrong: type[Any], test: str, clause: str) -> None:
    assert clause in message(MemoryContract, test, kind=wrong)


@pytest.mark.exhaustive
@faults(*FAULTS, *HANGS)
def test_the_whole_contract_finds_a_wrong_lease(wrong: type[Any], test: str, clause: str) -> None:
    found = messages(MemoryContract, kind=wrong)
    assert found
    assert all("breaks the clause" in each for each in found)
