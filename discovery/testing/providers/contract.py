"""The contract of providers: derive from `ProviderContract`, say how to change its world, and run pytest."""

import asyncio
import tempfile
import time
import weakref
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from discovery.plugin import AnyProvider, Inventory, Provider, Validation
from discovery.system.either import iterated
from discovery.testing import process
from discovery.testing.clauses import clause, examine, expect
from discovery.testing.consumers.answers import FIGURES, health_is_told_quickly, is_health_told
from discovery.testing.consumers.life import CALL_SECONDS, STOP_SECONDS, call
from discovery.testing.consumers.restart import alternatives, teardown_after_failed_setup
from discovery.testing.options import OPTIONS, Options
from discovery.testing.process import Holdings
from discovery.testing.providers.life import left_seconds, observe
from discovery.testing.providers.observing import Observed, Part
from discovery.testing.providers.place import ProviderPlace, at, at_first
from discovery.testing.providers.rules import CHECKS, COURSES, FINDINGS, problems_are_single_lines
from discovery.testing.recorder import Recorder, touched_by
from discovery.testing.support import within
from discovery.testing.watching import limited, run_loop

_ALTERNATIVES = 3
"""Configurations that a provider is asked to adopt; the first is the present one."""
_FIRST_SECONDS = 2.0
"""Seconds for the first inventory with another configuration, which may be one of another machine."""
_ADOPTING_SECONDS = 1.5
"""Seconds after which a provider is asked to adopt no further configuration, so that the contract takes less than 20 s.
"""
_CLOSED_SECONDS = 1.0
"""The same of discoveries that are begun and closed in turn."""
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
        self._observe(Part.FIRST)

    @clause
    def test_equal_worlds_give_equal_inventories(self) -> None:
        """An equal inventory costs nothing: one that differs at random is checked, and written, each time."""
        for one, two in self._observe(Part.EQUAL).twins:
            for mine, theirs in zip(one.candidates, two.candidates, strict=True):
                expect(hash(mine) == hash(theirs), "equal hashes of equal candidates", f"{mine} and {theirs}")

    @clause
    def test_a_change_is_found_and_each_inventory_is_complete(self) -> None:
        """The core withdraws what an inventory lacks, and registers what is new."""
        self._observe(Part.CHANGE)

    @clause
    def test_a_change_at_the_moment_of_an_inventory_is_found(self) -> None:
        """What changes between a look and the beginning of a watch, or during a look, is never told again."""
        self._observe(Part.MOMENT, Part.BURST)

    @clause
    def test_every_backend_is_valid_and_has_a_key_of_its_own(self) -> None:
        """The core leaves out what cannot be registered."""
        examine(self.provider, self._observe(Part.COURSE), FINDINGS)

    @clause
    def test_every_check_makes_sense_and_can_be_run(self) -> None:
        """The core runs the checks on the provider's event loop, and registers what passes."""
        examine(self.provider, self._observe(Part.COURSE), CHECKS)

    @clause
    def test_problems_are_single_lines(self) -> None:
        """Problems and skipped things are shown in tables and logs."""
        examine(self.provider, self._observe(Part.COURSE), [problems_are_single_lines])

    @clause
    def test_discover_runs_on_quietly(self) -> None:
        """A daemon lives for months, and all plugins share its process."""
        examine(self.provider, self._observe(Part.COURSE, Part.AGAIN), COURSES)

    @clause
    def test_a_discovery_may_be_closed_or_cancelled_at_any_time_and_begun_again(self) -> None:
        """The core closes `discover` when the daemon stops, and calls `discover` again after an exception."""

        async def check(provider: AnyProvider) -> None:
            with limited("aclose of discover", CALL_SECONDS):
                await iterated(provider.discover()).aclose()
            counts: list[dict[str, int]] = []
            begun = time.monotonic()
            while len(counts) < 2 or (len(counts) < 4 and time.monotonic() - begun < _CLOSED_SECONDS):
                found = iterated(provider.discover())
                with limited("discover", self.patience + 1):
                    async with asyncio.timeout(self.patience):
                        await anext(found)
                with limited("aclose of discover", CALL_SECONDS):
                    await found.aclose()
                await asyncio.sleep(0.01)
                counts.append({**Holdings.now().counts, "tasks": len(asyncio.all_tasks())})
            for kind in counts[0] if len(counts) == 4 else ():
                grown = [count[kind] for count in counts[1:]]
                expect(not grown[0] < grown[1] < grown[2], f"as many {kind} after each discover", grown)

        self._run(check)
        self._observe(Part.AGAIN)

    @clause
    def test_what_cannot_be_seen_is_raised_and_never_less_is_found(self) -> None:
        """Backends that the provider cannot see are there nevertheless: an incomplete inventory withdraws them."""
        import pytest

        observed = self._observe()
        if not observed.can_be_blinded:
            pytest.skip("no blind() to keep the provider from seeing")
        observed.require(Part.BLIND, Part.AGAIN)

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
    def test_what_a_killed_daemon_has_left_keeps_no_instance_from_starting(self) -> None:
        """A daemon that was killed has torn nothing down: its run directory has whatever was there at that moment."""
        self._observe(Part.KILLED)

    @clause
    def test_another_configuration_is_adopted_or_refused(self) -> None:
        """A reload asks a provider to go on with other options."""

        async def check(provider: AnyProvider) -> None:
            if self.provider.reconfigure is Provider.reconfigure:
                return
            same, *others = alternatives(self.provider.Config, self.config, self.other_configs)
            asked, begun = 0, time.monotonic()
            for change, table in [*others[: _ALTERNATIVES - 1], same]:
                if asked and time.monotonic() - begun > within(_ADOPTING_SECONDS):
                    return
                config = self.provider.Config.model_validate(table)
                try:
                    async with self._another(config=config) as fresh, self._watching(fresh, at_first) as seen:
                        async with asyncio.timeout(within(_FIRST_SECONDS)):
                            wanted = await seen.first()
                except Exception:  # a provider may fail in any way with options that do not suit this machine
                    if table is self.config:
                        raise
                    continue
                asked += 1
                async with self._another() as adopting:
                    taken: object = await call("reconfigure", CALL_SECONDS, adopting.reconfigure, config)
                    expect(isinstance(taken, bool), "True or False from reconfigure", f"{taken!r} for {change}")
                    if taken:
                        async with self._watching(adopting, at(wanted)) as seen:
                            await seen.finds(wanted)

        self._run(check)

    @clause
    def test_health_can_be_asked_for_at_any_time(self) -> None:
        """The core asks every few seconds, while `discover` runs, and shows the detail on a single line."""
        answers = self._observe(Part.ASKED, Part.FIRST)
        for asked in answers.asked:
            is_health_told(asked.health, asked.moment)
        after: Any = answers.asked[-1].health
        expect(after.ok, "ok after the first inventory", after)
        examine(self.provider, answers, [health_is_told_quickly])

    @clause
    def test_metrics_and_details_can_be_read_at_any_time(self) -> None:
        """`/metrics` and `/api` show them."""
        examine(self.provider, self._observe(Part.ASKED, Part.FIRST), FIGURES)

    @clause
    def test_validating_finds_no_fault_and_changes_nothing(self) -> None:
        """`config check` validates without a setup, and beside a daemon that runs."""

        async def check(run_dir: Path) -> None:
            provider = self._make(run_dir)
            with Recorder() as recorder:
                found = await call("validate", CALL_SECONDS, provider.validate)
            expect(isinstance(found, Validation), "a Validation", found)
            for texts in (found.faults, found.unchecked, found.listens, found.files):
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
        if not self._observe(Part.TEARDOWN).left:
            return

        async def check(provider: AnyProvider) -> None:
            async with self._watching(provider) as seen:
                first = await seen.first()
                await self._arrange(1)
                await seen.another_than(first)

        before = Holdings.now()  # what exists once in a process is there since the life that was observed
        self._run(check)
        left = process.left_since(before, left_seconds(self))
        expect(not left, "no thread, child or descriptor after teardown", f"left behind: {left}")

    def _observe(self, *parts: Part) -> Observed:
        """Return the observations of a life, which takes place once for all clauses. Raise the exception of a part."""
        if type(self) not in _observed:
            try:
                _observed[type(self)] = observe(self)
            except BaseException as error:  # noqa: BLE001 - kept for the next clause
                _observed[type(self)] = error
        found = _observed[type(self)]
        if isinstance(found, BaseException):
            raise found
        return found.require(*parts)

    def _inspect(self, check: Callable[[list[Inventory]], Coroutine[Any, Any, None]]) -> None:
        """Check the inventories of a change of worlds. For derived classes that were written before."""

        async def run(provider: AnyProvider) -> None:
            async with self._watching(provider) as seen:
                first = await seen.first()
                await self._arrange(1)
                await seen.another_than(first)
                await check(seen.inventories)

        self._run(run)
