"""The contract of providers: derive from `ProviderContract`, say how to change its world, and run pytest."""

import asyncio
import tempfile
import weakref
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from discovery.errors import describe
from discovery.plugin import AnyProvider, Inventory, Validation
from discovery.system.either import iterated
from discovery.testing import process
from discovery.testing.clauses import clause, examine, expect
from discovery.testing.consumers.answers import FIGURES, Answers, is_health_told
from discovery.testing.consumers.gentle import INSPECT_SECONDS, METRICS_SECONDS, Asked, in_a_thread, outcome
from discovery.testing.consumers.life import CALL_SECONDS, STOP_SECONDS, call
from discovery.testing.consumers.restart import teardown_after_failed_setup
from discovery.testing.options import OPTIONS, Options
from discovery.testing.process import Holdings
from discovery.testing.providers.observing import (
    CHECKS,
    COURSES,
    FINDINGS,
    Observed,
    observe,
    problems_are_single_lines,
)
from discovery.testing.providers.place import ProviderPlace
from discovery.testing.recorder import Recorder, touched_by
from discovery.testing.support import eventually
from discovery.testing.watching import limited, run_loop

_observed: "weakref.WeakKeyDictionary[type, Observed | BaseException]" = weakref.WeakKeyDictionary()


class ProviderContract(ProviderPlace):
    """The behaviour that the core relies on, as pytest tests.

    A derived class sets `provider`, and `config` if the provider needs options, and implements `arrange`. It makes what
    both worlds need in pytest's `setup_method(self, method)`, and removes that in `teardown_method`. The tests call the
    provider's methods as the core does, on one event loop in a thread of its own. The message of a failure names each
    clause that does not hold, with what was expected, what was seen, and the reason of the clause.
    """

    @clause
    def test_making_one_touches_nothing(self) -> None:
        """Instances are made to be validated, on any thread, and many of them are never set up."""
        before = Holdings.now()
        expect((touched := touched_by(self._make)) == [], "no I/O", touched)
        more = Holdings.now().more_than(before)
        expect(not more, "no thread, child or descriptor of an instance that is not set up", more)

    @clause
    def test_the_options_are_strict(self) -> None:
        """The core validates options by `Config`, and tells faults before anything runs."""
        examine(self.provider, Options(self.provider.Config, self.config), OPTIONS)

    @clause
    def test_the_first_inventory_comes_by_itself(self) -> None:
        """Nothing is registered before the first inventory, and a successor of the daemon waits for that."""

        async def check(provider: AnyProvider) -> None:
            async with self._watching(provider) as seen:
                first = await seen.first()
                expect(isinstance(first, Inventory), "an Inventory from discover", first)

        self._run(check)

    @clause
    def test_equal_worlds_give_equal_inventories(self) -> None:
        """An equal inventory costs nothing: one that differs by chance is checked, and written, anew each time."""

        async def check(provider: AnyProvider) -> None:
            for world in (0, 1):
                await self._arrange(world)
                async with self._watching(provider) as one, self._another() as other, self._watching(other) as two:
                    await one.first()
                    await two.first()
                    await one.until(lambda: one.latest == two.latest, "two providers to find the same")
                    for mine, theirs in zip(one.latest.candidates, two.latest.candidates, strict=True):
                        expect(hash(mine) == hash(theirs), "equal hashes of equal candidates", f"{mine} and {theirs}")

        self._run(check)

    @clause
    def test_a_change_is_found_and_each_inventory_is_complete(self) -> None:
        """The core withdraws what an inventory lacks, and registers what is new."""

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

    @clause
    def test_every_backend_is_valid_and_has_a_key_of_its_own(self) -> None:
        """The core leaves out what cannot be registered."""
        examine(self.provider, self._observe(), FINDINGS)

    @clause
    def test_every_check_makes_sense_and_can_be_run(self) -> None:
        """The core runs the checks on the provider's event loop, and registers what passes."""
        examine(self.provider, self._observe(), CHECKS)

    @clause
    def test_problems_are_single_lines(self) -> None:
        """Problems and skipped things are shown in tables and logs."""
        examine(self.provider, self._observe(), [problems_are_single_lines])

    @clause
    def test_discover_runs_on_quietly(self) -> None:
        """A daemon lives for months, and all plugins share its process."""
        examine(self.provider, self._observe(), COURSES)

    @clause
    def test_a_discovery_may_be_closed_or_cancelled_at_any_time_and_begun_again(self) -> None:
        """The core closes `discover` when the daemon stops, and calls `discover` again after an exception."""

        async def check(provider: AnyProvider) -> None:
            with limited("aclose of discover", CALL_SECONDS):
                await iterated(provider.discover()).aclose()
            first, counts = None, []
            for _ in range(4):
                begun = iterated(provider.discover())
                with limited("discover", self.patience + 1):
                    async with asyncio.timeout(self.patience):
                        first = await anext(begun)
                with limited("aclose of discover", CALL_SECONDS):
                    await begun.aclose()
                await asyncio.sleep(0.01)
                counts.append({**Holdings.now().counts, "tasks": len(asyncio.all_tasks())})
            for kind in counts[0]:
                grown = [count[kind] for count in counts[1:]]
                expect(not grown[0] < grown[1] < grown[2], f"as many {kind} after each discover", grown)
            for _ in range(2):
                async with self._watching(provider) as seen:
                    assert first is not None
                    await seen.finds(first)

        self._run(check)

    @clause
    def test_what_cannot_be_seen_is_raised_and_never_less_is_found(self) -> None:
        """Backends that the provider cannot see are there nevertheless: an incomplete inventory withdraws them."""
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
                    less = [each for each in seen.inventories if each != first]
                    expect(not less, "an exception, and no other inventory", less)
                    ended = None if seen.task.cancelled() else seen.task.exception()
                    expect(isinstance(ended, Exception), "an exception that tells the reason", ended)
                    is_health_told(
                        await call("health", CALL_SECONDS, provider.health), "after an exception of discover"
                    )
                    await self._raises(provider)
                finally:
                    await asyncio.to_thread(blinded.__exit__, None, None, None)
            async with self._watching(provider) as again:
                await again.finds(first)

        self._run(check)

    @clause
    def test_tearing_down_is_safe_without_a_setup_and_after_one(self) -> None:
        """The core calls `teardown` once for each instance, also after a setup that failed or was never called."""

        async def check(run_dir: Path) -> None:
            await call("teardown without a setup", STOP_SECONDS, self._make(run_dir).teardown)
            await teardown_after_failed_setup(self._make)
            provider = self._make(run_dir)
            await call("setup", CALL_SECONDS, provider.setup)
            await call("teardown", STOP_SECONDS, provider.teardown)

        self.arrange(0)
        with tempfile.TemporaryDirectory() as directory:
            run_loop(check(Path(directory)))

    @clause
    def test_health_can_be_asked_for_at_any_time(self) -> None:
        """The core asks every few seconds, while `discover` runs, and shows the detail on a single line."""

        async def check(provider: AnyProvider) -> None:
            is_health_told(await call("health", CALL_SECONDS, provider.health), "before discover")
            async with self._watching(provider) as seen:
                await seen.first()
                after = await call("health", CALL_SECONDS, provider.health)
            is_health_told(after, "after the first inventory")
            expect(after.ok, "ok after the first inventory", after)

        self._run(check)

    @clause
    def test_metrics_and_details_can_be_read_at_any_time(self) -> None:
        """`/metrics` and `/api` show them."""

        async def check(provider: AnyProvider) -> None:
            answers = Answers([])
            async with self._watching(provider) as seen:
                for moment in ("before the first inventory", "after the first inventory"):
                    asked = Asked(moment)
                    asked.samples = await in_a_thread("metrics", METRICS_SECONDS, lambda: [*provider.metrics()])
                    asked.details = await outcome("inspect", INSPECT_SECONDS, provider.inspect)
                    answers.asked.append(asked)
                    await seen.first()
            examine(self.provider, answers, FIGURES)

        self._run(check)

    @clause
    def test_validating_finds_no_fault_and_changes_nothing(self) -> None:
        """`config check` validates without a setup, and beside a daemon that runs."""

        async def check(run_dir: Path) -> None:
            provider = self._make(run_dir)
            with Recorder() as recorder:
                found = await call("validate", CALL_SECONDS, provider.validate)
            expect(isinstance(found, Validation), "a Validation", found)
            for texts in (found.faults, found.unchecked, found.listens):
                is_lines = isinstance(texts, tuple) and all(isinstance(each, str) and each for each in texts)
                expect(is_lines, "a tuple of texts", texts)
            expect(found.faults == (), "no fault of the configuration of the contract", found.faults)
            expect(not recorder.writes, "no write", recorder.writes)

        self.arrange(0)
        with tempfile.TemporaryDirectory() as directory:
            run_loop(check(Path(directory) / "not there"))

    @clause
    def test_nothing_is_left_running(self) -> None:
        """A daemon lives for months, and sets a provider up again at each change of its configuration."""

        async def check(provider: AnyProvider) -> None:
            async with self._watching(provider) as seen:
                first = await seen.first()
                await self._arrange(1)
                await seen.another_than(first)

        self._run(check)  # creates the objects that exist once in a process
        before = Holdings.now()
        self._run(check)
        left = process.left_since(before, min(self.patience, 3.0))
        expect(not left, "no thread, child or descriptor after teardown", f"left behind: {left}")

    async def _raises(self, provider: AnyProvider) -> None:
        """Check that a new `discover` raises, too."""
        with limited("discover, which cannot see,", self.patience + 1):
            begun = iterated(provider.discover())
            try:
                async with asyncio.timeout(self.patience):
                    found: object = await anext(begun)
            except Exception as error:  # noqa: BLE001 - after any exception the core tries again
                expect(not isinstance(error, StopAsyncIteration), "an exception that tells the reason", describe(error))
                return
            finally:
                await begun.aclose()
        expect(False, "an exception again", found)

    def _observe(self) -> Observed:
        """Return the observations of a life, which takes place once for all clauses."""
        if type(self) not in _observed:
            try:
                _observed[type(self)] = observe(self)
            except BaseException as error:  # noqa: BLE001 - kept for the next clause
                _observed[type(self)] = error
        found = _observed[type(self)]
        if isinstance(found, BaseException):
            raise found
        return found

    def _inspect(self, check: Callable[[list[Inventory]], Coroutine[Any, Any, None]]) -> None:
        """Check the inventories of a change of worlds. For derived classes that were written before."""

        async def run(provider: AnyProvider) -> None:
            async with self._watching(provider) as seen:
                first = await seen.first()
                await self._arrange(1)
                await seen.another_than(first)
                await check(seen.inventories)

        self._run(run)
