"""The contract accepts registries that are right and slow in a limited time, and each clause tells its own faults."""

import asyncio
import time
from collections.abc import AsyncGenerator, Collection

import pytest
from sound_registries import MemoryContract, WithLeases, little_patience
from wrong_plugins import messages

from discovery import Backend
from discovery.registry import RegistryEvent
from discovery.registry.memory import MemoryLease, MemoryRegistry
from discovery.testing import within
from discovery.testing.clauses import ContractError

__all__ = ["little_patience"]


class SlowRegistry(MemoryRegistry):
    """Takes 50 ms for each call, as one that asks a distant server."""

    seconds = 0.05
    blocks = False

    async def pause(self) -> None:
        if self.blocks:
            time.sleep(self.seconds)  # noqa: ASYNC251 - it may
        else:
            await asyncio.sleep(self.seconds)

    async def open_lease(self, owner: str, ttl: float) -> MemoryLease:
        await self.pause()
        self.check()
        return SlowLease(self, owner, ttl)

    async def watch(self) -> AsyncGenerator[RegistryEvent, None]:
        await self.pause()
        async for event in super().watch():
            yield event

    async def close(self) -> None:
        await self.pause()


class SlowLease(MemoryLease):
    async def pause(self) -> None:
        assert isinstance(self._registry, SlowRegistry)
        await self._registry.pause()

    async def put(self, backend: Backend, *, force: bool = False) -> None:
        await self.pause()
        await super().put(backend, force=force)

    async def delete(self, backend: Backend) -> None:
        await self.pause()
        await super().delete(backend)

    async def sweep(self, keep: Collection[str], among: Collection[str] | None = None) -> frozenset[str]:
        await self.pause()
        return await super().sweep(keep, among)

    async def close(self) -> None:
        await self.pause()
        await super().close()


class BlockingRegistry(SlowRegistry):
    blocks = True


class DistantRegistry(SlowRegistry):
    seconds = 0.2


@pytest.mark.parametrize(
    "kind",
    [
        SlowRegistry,
        pytest.param(BlockingRegistry, marks=pytest.mark.exhaustive),
        pytest.param(DistantRegistry, marks=pytest.mark.exhaustive),
    ],
)
def test_a_slow_registry_is_accepted(kind: type[SlowRegistry]) -> None:
    begun = time.monotonic()
    assert messages(MemoryContract, kind=kind, ttl=1.0) == []
    assert time.monotonic() - begun < within(20 if kind.seconds < 0.1 else 60)


def test_few_calls_are_made() -> None:
    """Of a registry that blocks each call counts, since no other is made meanwhile."""

    class Counting(SlowRegistry):
        calls = 0

        async def pause(self) -> None:
            Counting.calls += 1

    assert messages(MemoryContract, kind=Counting) == []
    assert Counting.calls < 280


class HangsInOneClause(WithLeases):
    """Hangs where something is to be swept among no keys, and nowhere else."""

    class lease(MemoryLease):  # noqa: N801 - the attribute of `WithLeases`
        async def sweep(self, keep: Collection[str], among: Collection[str] | None = None) -> frozenset[str]:
            if among == ():
                await asyncio.Event().wait()
            return await super().sweep(keep, among)


@pytest.mark.usefixtures("little_patience")
def test_a_call_that_hangs_is_told_by_its_own_clause() -> None:
    contract = type("Case", (MemoryContract,), {"kind": HangsInOneClause})
    outcomes = contract()
    outcomes.setup_method(None)
    told = outcomes._play_all({})
    hanging = {name: str(error) for name, error in told.items() if error is not None}
    assert [*hanging] == ["test_a_sweep_of_some_keys_alone_removes_no_others"]
    assert f"sweep has not returned within {within(1):g} s" in hanging.popitem()[1]


@pytest.mark.usefixtures("little_patience")
def test_a_fault_is_told_by_the_clauses_that_it_concerns_alone() -> None:
    class SweepsAll(MemoryLease):
        async def sweep(self, keep: Collection[str], among: Collection[str] | None = None) -> frozenset[str]:
            return await super().sweep(keep)

    found = messages(MemoryContract, kind=type("SweepsAll", (WithLeases,), {"lease": SweepsAll}))
    assert ["a sweep of some keys alone removes no others" in each for each in found] == [True]


@pytest.mark.usefixtures("little_patience")
def test_a_clause_that_is_tested_again_is_played_again() -> None:
    test = "test_many_puts_at_once_are_all_written"

    class WorksOnce(MemoryRegistry):
        made = 0

        def __init__(self) -> None:
            super().__init__()
            WorksOnce.made += 1

        def check(self) -> None:
            if self.made > 1:
                raise RuntimeError("the second place")

    class Contract(MemoryContract):
        kind = WorksOnce

    first, second = Contract(), Contract()
    first.setup_method(None)
    getattr(first, test)()
    second.setup_method(None)
    with pytest.raises(ContractError, match="the second place"):
        getattr(second, test)()
