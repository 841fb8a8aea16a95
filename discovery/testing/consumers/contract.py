"""The contract of consumers: derive from `ConsumerContract`, name your class, and run pytest."""

import asyncio
import math
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import structlog

from discovery.model import Snapshot, diff
from discovery.plugin import AnyConsumer, Context, Update, Validation
from discovery.system.either import completed
from discovery.testing.clauses import clause, difference, examine, expect
from discovery.testing.consumers.answers import ANSWERS, FIGURES, PREVIEWS
from discovery.testing.consumers.effects import EFFECTS
from discovery.testing.consumers.gentle import Gentle, gentle
from discovery.testing.consumers.harsh import (
    CANCELLATIONS,
    FAILURES,
    WAYS,
    Harsh,
    harsh,
    two_instances_do_not_touch_each_other,
)
from discovery.testing.consumers.histories import every_recorded_history_ends_with_the_same_effect, replay
from discovery.testing.consumers.life import CALL_SECONDS, STOP_SECONDS, call
from discovery.testing.consumers.place import ConsumerPlace
from discovery.testing.consumers.restart import (
    a_new_configuration_is_adopted_or_refused,
    a_restart_leaves_the_effect_until_its_first_apply,
    a_restart_takes_over_what_is_there,
    a_successor_has_the_same_effect,
    foreign_directory,
    reconfigurations,
    restart,
    sockets_are_handed_over_open,
    succession,
    teardown_after_failed_setup,
)
from discovery.testing.consumers.session import Session, session_of
from discovery.testing.consumers.traces import ENDINGS, FILES
from discovery.testing.options import OPTIONS, Options
from discovery.testing.process import Holdings
from discovery.testing.recorder import Recorder, touched_by
from discovery.testing.watching import run_loop


class ConsumerContract(ConsumerPlace):
    """The behaviour that the core relies on, as pytest tests.

    A derived class sets `consumer`, and `config` if the consumer needs options. The tests call the methods as the core
    does, on an event loop in a thread of its own, one at a time. A test has several clauses; the message of a failure
    names each clause that does not hold, with what was expected, what was seen, and the reason of the clause.

    Tests share the lives of a few instances, so that the whole takes less than 20 s. Of a consumer whose `apply` takes
    long fewer states are tested.
    """

    @clause
    def test_making_one_touches_nothing(self) -> None:
        """Instances are made to be validated and previewed, on any thread, and many of them are never set up."""
        before, made = Holdings.now(), []
        expect((touched := touched_by(lambda run_dir: made.append(self._make(run_dir)))) == [], "no I/O", touched)
        more = Holdings.now().more_than(before)
        expect(not more, "no thread, child or descriptor of an instance that is not set up", more)
        resident: Any = made[0].resident
        expect(isinstance(resident, bool), "True or False as `resident`", resident)
        seconds: Any = made[0].stop_seconds
        is_number = isinstance(seconds, int | float) and math.isfinite(seconds) and seconds >= 0
        expect(is_number, "seconds as `stop_seconds`", seconds)

    @clause
    def test_the_options_are_strict(self) -> None:
        """The core validates options by `Config`, and tells faults before anything runs."""
        examine(self.consumer, Options(self.consumer.Config, self.config), OPTIONS)

    @clause
    def test_applying_twice_is_applying_once(self) -> None:
        """The core applies the same snapshot again after a reload, after a failure and at the request of a plugin."""
        for worlds in self._gentle().repeated.values():
            for world in worlds[1:]:
                expect(world == worlds[0], "the effect of the first apply", difference(worlds[0], world))

    @clause
    def test_the_way_to_a_state_does_not_matter(self) -> None:
        """The core merges changes and leaves states out: the effect is a function of the snapshot alone."""
        straight, other, back = self._gentle().way
        expect(other != straight, "another effect for the other of `snapshots`", straight)
        expect(back == straight, "the effect that the same snapshot had before", difference(straight, back))
        examine(self.consumer, self._harsh(), WAYS)

    @clause
    def test_every_kind_of_backend_is_followed(self) -> None:
        """A registry has whatever people and programs record there."""
        examine(self.consumer, self._gentle(), EFFECTS)

    @clause
    def test_files_are_whole_and_in_their_place(self) -> None:
        """Other programs read the files while the consumer writes."""
        examine(self.consumer, self._gentle(), FILES)

    @clause
    def test_an_apply_after_a_failed_one_sets_everything_right(self) -> None:
        """The core applies the newest snapshot after a failure, with the changes since the last success."""
        examine(self.consumer, self._harsh(), FAILURES)

    @clause
    def test_an_apply_can_be_cancelled(self) -> None:
        """The core cancels an apply that is not done two seconds after a stop."""
        examine(self.consumer, self._harsh(), CANCELLATIONS)

    @clause
    def test_two_instances_do_not_touch_each_other(self) -> None:
        """A configuration may have a plugin twice."""
        examine(self.consumer, self._harsh(), [two_instances_do_not_touch_each_other])

    @clause
    def test_a_restart_takes_over_what_is_there(self) -> None:
        """A daemon that starts again finds what the daemon before has left."""
        seen = self._session().kept(self, restart, self._gentle())
        examine(
            self.consumer, seen, [a_restart_takes_over_what_is_there, a_restart_leaves_the_effect_until_its_first_apply]
        )

    @clause
    def test_recorded_histories_are_followed(self) -> None:
        """The core has a thread and a loop for each instance, merges changes, and goes through faults of registries."""
        self._gentle()  # tells how long an apply takes
        seen = self._session().kept(self, replay)
        if seen is not None:
            examine(self.consumer, seen, [every_recorded_history_ends_with_the_same_effect])

    @clause
    def test_nothing_is_left_behind(self) -> None:
        """A daemon lives for months, and all plugins share its process."""
        self._gentle()
        self._harsh()
        examine(self.consumer, self._session().endings, ENDINGS)

    @clause
    def test_another_configuration_is_adopted_or_refused(self) -> None:
        """A reload asks a consumer to go on with other options."""
        seen = self._session().kept(self, reconfigurations, self._gentle())
        examine(self.consumer, seen, [a_new_configuration_is_adopted_or_refused])

    @clause
    def test_a_successor_goes_on(self) -> None:
        """`run --replace` passes listening sockets to a new daemon."""
        seen = self._session().kept(self, succession, self._gentle())
        if seen is not None:
            examine(self.consumer, seen, [sockets_are_handed_over_open, a_successor_has_the_same_effect])

    @clause
    def test_orphans_are_ended_and_nothing_else(self) -> None:
        """`discovery stop` asks every plugin about the directory of every instance, of any plugin."""

        async def check() -> None:
            with foreign_directory() as directory:
                before = sorted(path.name for path in directory.iterdir())
                for run_dir in (directory, directory / "not there"):
                    context = Context("contract", run_dir, structlog.get_logger("contract"))
                    ended = await call("end_orphans", CALL_SECONDS, self.consumer.end_orphans, context)
                    is_told = isinstance(ended, Mapping) and not ended
                    expect(is_told, "an empty mapping, as there is no orphan", ended)
                after = sorted(path.name for path in directory.iterdir())
                expect(after == before, "the files of another plugin as they were", after)

        run_loop(check())

    @clause
    def test_tearing_down_is_safe_without_a_setup_and_after_one(self) -> None:
        """The core calls `teardown` once for each instance, also after a setup that failed or was never called."""

        async def check(run_dir: Path) -> None:
            consumer = self._make(run_dir)
            await call("teardown without a setup", STOP_SECONDS, consumer.teardown)
            await teardown_after_failed_setup(self._make)
            consumer = self._make(run_dir)
            await call("setup", CALL_SECONDS, consumer.setup)
            await call("teardown", max(STOP_SECONDS, float(consumer.stop_seconds)), consumer.teardown)

        with tempfile.TemporaryDirectory() as directory:
            run_loop(check(Path(directory)))

    @clause
    def test_health_can_be_asked_for_at_any_time(self) -> None:
        """The core asks every few seconds, from the end of `setup` on."""
        examine(self.consumer, self._gentle(), ANSWERS)

    @clause
    def test_metrics_and_details_can_be_read_at_any_time(self) -> None:
        """`/metrics` and `/api` show them."""
        examine(self.consumer, self._gentle(), FIGURES)

    @clause
    def test_a_preview_writes_nothing(self) -> None:
        """`run --dry-run` shows what would change, and changes nothing."""
        examine(self.consumer, self._gentle(), PREVIEWS)

    @clause
    def test_validating_finds_no_fault_and_makes_no_run_directory(self) -> None:
        """`config check` validates without a daemon, and beside a daemon that runs."""

        async def check(run_dir: Path) -> None:
            for state in (Snapshot.of(0, ()), self.snapshots[0]):
                consumer = self._aside(run_dir)
                with Recorder() as recorder:
                    found = await call("validate", CALL_SECONDS, consumer.validate, _update(None, state))
                expect(isinstance(found, Validation), "a Validation", found)
                for texts in (found.faults, found.unchecked, found.listens, found.files):
                    is_lines = isinstance(texts, tuple) and all(isinstance(each, str) and each for each in texts)
                    expect(is_lines, "a tuple of texts", texts)
                expect(found.faults == (), "no fault of the configuration of the contract", found.faults)
                lasting = recorder.lasting_writes
                expect(not lasting, "no write but in a temporary directory that is gone", lasting)
            expect(not run_dir.exists(), "no run directory", run_dir)

        with tempfile.TemporaryDirectory() as directory:
            run_loop(check(Path(directory) / "not there"))

    @property
    def _plugin(self) -> type:
        """The class whose faults the messages name."""
        return self.consumer

    def _session(self) -> Session:
        session = session_of(self)
        if "config" in vars(self):
            self._live_every_life(session)
        return session

    def _live_every_life(self, session: Session) -> None:
        """Live every life in the first test: what its options name is gone afterwards. Errors are kept for clauses."""
        with suppress(Exception):
            first = session.kept(self, gentle)
            with suppress(Exception):
                session.kept(self, harsh, first)
            with suppress(Exception):
                session.kept(self, restart, first)
            with suppress(Exception):
                session.kept(self, replay)
            with suppress(Exception):
                session.kept(self, reconfigurations, first)
            with suppress(Exception):
                session.kept(self, succession, first)

    def _gentle(self) -> Gentle:
        session = self._session()
        first = session.kept(self, gentle)
        if session.is_very_slow:
            with suppress(Exception):  # kept for its clauses; this life begins with what the first has left
                session.kept(self, harsh, first)
        return first

    def _harsh(self) -> Harsh:
        return self._session().kept(self, harsh, self._gentle())

    def _run(self, check: Callable[[AnyConsumer, Path], Coroutine[Any, Any, None]]) -> None:
        async def run() -> None:
            async with self._started() as (consumer, run_dir):
                await check(consumer, run_dir)

        asyncio.run(run())

    @asynccontextmanager
    async def _started(self) -> AsyncIterator[tuple[AnyConsumer, Path]]:
        with tempfile.TemporaryDirectory() as directory, tempfile.TemporaryDirectory() as state:
            consumer = self._make(Path(directory), Path(state, "contract"))
            try:
                await completed(consumer.setup())
                yield consumer, Path(directory)
            finally:
                await completed(consumer.teardown())


def _update(previous: Snapshot | None, state: Snapshot) -> Update:
    return Update(state, previous, diff(previous, state))
