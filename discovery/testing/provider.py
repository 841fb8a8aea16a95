"""The contract of providers: derive from `ProviderContract`, say how to change its world, and run pytest."""

import asyncio
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import AbstractContextManager, asynccontextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar

import structlog

from discovery.checks import Check, Outcome
from discovery.model import Backend
from discovery.plugin import AnyProvider, Context, Health, Inventory
from discovery.system.either import completed, iterated
from discovery.testing.recorder import touched_by
from discovery.testing.support import eventually, eventually_sync
from discovery.validity import validate


class ProviderContract:
    """The behaviour that the core relies on, as pytest tests.

    A derived class sets `provider`, and `config` if the provider needs options, and implements `arrange`. It makes what
    both worlds need in pytest's `setup_method(self, method)`, and removes that in `teardown_method`. The tests call the
    provider's methods as the core does, on one event loop.
    """

    provider: ClassVar[type[AnyProvider]]
    """The class under test."""
    config: Mapping[str, Any] = {}
    """The provider's options, as in the configuration file."""
    patience: float = 10.0
    """Seconds within which the provider finds the backends of a world, and notices a change."""

    def arrange(self, world: int) -> None:
        """Change what there is to find to world 0 or world 1, and return when that is done.

        The provider finds different candidates in the two worlds, and at least one candidate in one of them. Called
        before a provider is made, and while a provider runs, on another thread than the provider's.
        """
        raise NotImplementedError

    def blind(self) -> AbstractContextManager[object] | None:
        """Return a context in which the provider cannot see what there is. None, the default, skips the test.

        The context is entered and left on another thread than the provider's.
        """
        return None

    def test_making_one_touches_nothing(self) -> None:
        assert touched_by(self._make) == []

    def test_the_first_inventory_comes_by_itself(self) -> None:
        async def check(provider: AnyProvider) -> None:
            async with self._watching(provider) as seen:
                assert isinstance(await seen.first(), Inventory)

        self._run(check)

    def test_equal_worlds_give_equal_inventories(self) -> None:
        async def check(provider: AnyProvider) -> None:
            for world in (0, 1):
                await self._arrange(world)
                async with self._watching(provider) as one, self._another() as other, self._watching(other) as two:
                    await one.first()
                    await two.first()
                    await one.until(lambda: one.latest == two.latest, "two providers to find the same")
                    for mine, theirs in zip(one.latest.candidates, two.latest.candidates, strict=True):
                        assert hash(mine) == hash(theirs)

        self._run(check)

    def test_a_change_is_found_and_each_inventory_is_complete(self) -> None:
        async def check(provider: AnyProvider) -> None:
            async with self._watching(provider) as seen:
                first = await seen.first()
                await self._arrange(1)
                await seen.another_than(first)
                async with self._another() as other, self._watching(other) as afresh:
                    await seen.finds(await afresh.first())
                await self._arrange(0)
                await seen.finds(first)

        self._run(check)

    def test_every_backend_is_valid_and_has_a_key_of_its_own(self) -> None:
        async def check(inventories: list[Inventory]) -> None:
            assert any(inventory.candidates for inventory in inventories), "no candidate in either world"
            for inventory in inventories:
                backends = [candidate.backend for candidate in inventory.candidates]
                for backend in backends:
                    validate(backend)
                keys = [backend.key for backend in backends]
                assert len(set(keys)) == len(keys), f"a key is given twice: {keys}"

        self._inspect(check)

    def test_every_check_makes_sense_and_can_be_run(self) -> None:
        async def run(inventories: list[Inventory]) -> None:
            for inventory in inventories:
                for candidate in inventory.candidates:
                    for check in candidate.checks:
                        assert min(check.interval, check.timeout) > 0, f"without a time: {check}"
                        assert min(check.rise, check.fall) >= 1, f"without a count: {check}"
                        assert hash(check) == hash(check)
                        await _look(check, candidate.backend)

        self._inspect(run)

    def test_problems_are_single_lines(self) -> None:
        async def check(inventories: list[Inventory]) -> None:
            told = [pair for each in inventories for pair in (*each.problems.items(), *each.skipped.items())]
            for text in (text for pair in told for text in pair):
                assert text, "a problem, or something skipped, without a name or a reason"
                assert text.isprintable(), f"not one printable line: {text!r}"

        self._inspect(check)

    def test_a_discovery_may_be_closed_or_cancelled_at_any_time_and_begun_again(self) -> None:
        async def check(provider: AnyProvider) -> None:
            await iterated(provider.discover()).aclose()
            begun = iterated(provider.discover())
            async with asyncio.timeout(self.patience):
                first = await anext(begun)
                await begun.aclose()
            for _ in range(2):
                async with self._watching(provider) as seen:
                    await seen.finds(first)

        self._run(check)

    def test_what_cannot_be_seen_is_raised_and_never_less_is_found(self) -> None:
        import pytest

        async def check(provider: AnyProvider) -> None:
            blinded = self.blind()
            if blinded is None:
                pytest.skip("no blind() to keep the provider from seeing")
            async with self._watching(provider) as seen:
                first = await seen.first()
                await asyncio.to_thread(blinded.__enter__)
                try:
                    await eventually(seen.task.done, "discover to raise", self.patience)
                    assert [each for each in seen.inventories if each != first] == []
                    async with asyncio.timeout(self.patience):
                        with pytest.raises(Exception):  # noqa: B017, PT011 - after any exception the core tries again
                            await anext(iterated(provider.discover()))
                finally:
                    await asyncio.to_thread(blinded.__exit__, None, None, None)
            async with self._watching(provider) as again:
                await again.finds(first)

        self._run(check)

    def test_tearing_down_is_safe_without_a_setup_and_after_one(self) -> None:
        async def check(run_dir: Path) -> None:
            await completed(self._make(run_dir).teardown())
            provider = self._make(run_dir)
            await completed(provider.setup())
            await completed(provider.teardown())

        self.arrange(0)
        with tempfile.TemporaryDirectory() as directory:
            asyncio.run(check(Path(directory)))

    def test_health_can_be_asked_for_at_any_time(self) -> None:
        async def check(provider: AnyProvider) -> None:
            before = await completed(provider.health())
            async with self._watching(provider) as seen:
                await seen.first()
                after = await completed(provider.health())
            assert isinstance(before, Health)
            assert isinstance(before.detail, str)
            assert after.ok, after.detail

        self._run(check)

    def test_nothing_is_left_running(self) -> None:
        async def check(provider: AnyProvider) -> None:
            async with self._watching(provider) as seen:
                first = await seen.first()
                await self._arrange(1)
                await seen.another_than(first)

        self._run(check)  # creates the objects that exist once in a process
        threads, descriptors, children = set(threading.enumerate()), _descriptors(), _children()
        self._run(check)

        def nothing_more() -> bool:
            left = {*threading.enumerate()} - threads, _descriptors() - descriptors, _children() - children
            assert not any(left), f"left behind: {left}"
            return True

        eventually_sync(nothing_more, "threads, descriptors and children to be gone", self.patience)

    def _make(self, run_dir: Path) -> AnyProvider:
        config = self.provider.Config.model_validate(self.config)
        return self.provider(config, Context("contract", run_dir, structlog.get_logger("contract")))

    def _run(self, check: Callable[[AnyProvider], Coroutine[Any, Any, None]]) -> None:
        async def run() -> None:
            await self._arrange(0)
            before = asyncio.all_tasks()
            async with self._another() as provider:
                await check(provider)
            await eventually(lambda: asyncio.all_tasks() == before, "its tasks to end", self.patience)

        asyncio.run(run())

    def _inspect(self, check: Callable[[list[Inventory]], Coroutine[Any, Any, None]]) -> None:
        async def run(provider: AnyProvider) -> None:
            async with self._watching(provider) as seen:
                first = await seen.first()
                await self._arrange(1)
                await seen.another_than(first)
                await check(seen.inventories)

        self._run(run)

    async def _arrange(self, world: int) -> None:
        await asyncio.to_thread(self.arrange, world)

    @asynccontextmanager
    async def _another(self) -> AsyncIterator[AnyProvider]:
        with tempfile.TemporaryDirectory() as directory:
            provider = self._make(Path(directory))
            try:
                await completed(provider.setup())
                yield provider
            finally:
                await completed(provider.teardown())

    @asynccontextmanager
    async def _watching(self, provider: AnyProvider) -> AsyncIterator["_Watcher"]:
        watcher = _Watcher(provider, self.patience)
        try:
            yield watcher
        finally:
            if not watcher.task.done():
                watcher.task.cancel()
                await asyncio.wait([watcher.task])
                # The test has seen an error before the cancellation. An error during the cancellation is raised here.
                if not watcher.task.cancelled():
                    watcher.task.result()
            elif not watcher.task.cancelled():
                watcher.task.exception()


class _Watcher:
    """Follows a provider's `discover`. An end or an exception of `discover` is raised by the method that waits."""

    def __init__(self, provider: AnyProvider, patience: float) -> None:
        self.inventories: list[Inventory] = []
        self._patience = patience
        self.task = asyncio.create_task(self._follow(provider))

    @property
    def latest(self) -> Inventory:
        return self.inventories[-1]

    async def first(self) -> Inventory:
        await self.until(lambda: bool(self.inventories), "the first inventory")
        return self.inventories[0]

    async def another_than(self, inventory: Inventory) -> None:
        await self.until(lambda: self.latest != inventory, "a change to be found")

    async def finds(self, inventory: Inventory) -> None:
        await self.first()
        await self.until(lambda: self.latest == inventory, f"{inventory} to be found")

    async def until(self, condition: Callable[[], bool], what: str) -> None:
        def holds() -> bool:
            if self.task.done():
                self.task.result()
                raise RuntimeError("discover ended by itself")
            return condition()

        await eventually(holds, what, self._patience)

    async def _follow(self, provider: AnyProvider) -> None:
        inventories = iterated(provider.discover())
        try:
            async for inventory in inventories:
                self.inventories.append(inventory)
        finally:
            await inventories.aclose()


async def _look(check: Check, backend: Backend) -> None:
    """Run the probe of `check` once. The probe may fail, but must not return anything but an Outcome."""
    outcome = Outcome()
    with suppress(Exception):
        async with asyncio.timeout(check.timeout):
            outcome = await check.probe(backend)
    assert isinstance(outcome, Outcome), f"a probe returned {outcome!r}"


def _descriptors() -> set[tuple[str, str]]:
    """Return this process's file descriptors: their numbers and targets."""
    found = set()
    for entry in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # the descriptor with which this loop reads the directory
            found.add((entry.name, str(entry.readlink())))
    return found


def _children() -> set[str]:
    """Return the process ids of this process's children."""
    found: set[str] = set()
    for task in Path("/proc/self/task").iterdir():
        with suppress(OSError):  # the thread has ended
            found |= set((task / "children").read_text().split())
    return found
