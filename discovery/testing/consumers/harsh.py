"""A life of a consumer with failures, cancellations, a neighbour, and states in another order."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import pairwise

from discovery.errors import describe
from discovery.plugin import Consumer
from discovery.testing import process
from discovery.testing.clauses import difference, expect
from discovery.testing.consumers.answers import is_health_told
from discovery.testing.consumers.gentle import Gentle, in_a_thread, outcome
from discovery.testing.consumers.life import CALL_SECONDS, Life
from discovery.testing.consumers.session import Ending, Session
from discovery.testing.recorder import failing_writes
from discovery.testing.watching import HangError, limited

_WALK = (
    *("pair", "twins", "one", "empty", "twins", "host", "one", "draining", "pair", "weight 5", "weight 0", "labels"),
    *("pair", "port", "one", "twins", "one"),
)
"""States that the first life has seen in another order; some come again, to see what grows.

In neighbours a backend changes in place: its port, host, state, weight or labels alone.
"""
_SHORT_WALK = 3
"""Steps of the walk of a slow consumer."""
_READING_SECONDS = 0.001
"""Seconds between two scrapes at the same time as applies."""


@dataclass
class Failed:
    """An apply that the contract made fail: `raised` is the exception, and `effect` the effect afterwards."""

    name: str
    """The state that was applied."""
    raised: BaseException | None = None
    effect: object = None
    operations: list[str] = field(default_factory=list)
    health: object = None


@dataclass
class Cancelled:
    """An apply that was cancelled: `outcome` is the exception, or a description of a return."""

    outcome: object
    name: str
    """The state that was applied, and applied again after that."""
    effect_of_next: object


@dataclass
class Harsh:
    """The observations of this life. Effects are compared with `expected`, those of the first life, by state."""

    expected: dict[str, object]
    begun: object = None
    """The effect after the setup."""
    first: str = "one"
    """The state that was applied first."""
    start: object = None
    steps: list[tuple[str, object]] = field(default_factory=list)
    counts: list[dict[str, int]] = field(default_factory=list)
    metrics_errors: list[str] = field(default_factory=list)
    failed: list[Failed] = field(default_factory=list)
    after_failure: list[tuple[str, object]] = field(default_factory=list)
    cancelled: list[Cancelled] = field(default_factory=list)
    neighbour: str | None = None
    """The reason why no neighbour was examined."""
    beside: tuple[object, object, object] = (None, None, None)
    after_neighbour: object = None
    """The effect of the first snapshot, applied after the end of the neighbour."""
    files_of_both: tuple[list[str], list[str]] = ([], [])
    ending: Ending = field(default_factory=Ending)


def harsh(session: Session, first: Gentle) -> Harsh:
    """Live this life after the life `first`, and return its observations.

    A very slow consumer begins with what the life `first` has left, so that this life is a restart, too.
    """
    snapshots = {f"snapshot {number}": first.repeated[f"snapshot {number}"][0] for number in (0, 1)}
    observed = Harsh({**first.worlds, **snapshots})

    async def script(life: Life) -> None:
        await _Script(session, life, observed).run()

    observed.ending = session.life(script, wiped=not session.is_very_slow)
    return observed


class _Script:
    def __init__(self, session: Session, life: Life, observed: Harsh) -> None:
        self.session, self.life, self.observed = session, life, observed
        self.first, self.second = session.snapshot_names

    async def run(self) -> None:
        if self.session.is_very_slow:
            self.observed.begun, self.observed.first = self.life.world(), self.first
        await self._apply(self.observed.first)
        self.observed.start = self.life.world()
        with self._scraping():
            await self._walk()
        await self._fail()
        await self._cancel()
        await self._live_beside()

    async def _apply(self, name: str) -> None:
        await self.life.apply(self.session.states[name])

    async def _walk(self) -> None:
        steps = [name for name in _WALK if name in self.observed.expected]
        if self.session.is_slow:
            steps = [] if self.session.is_very_slow else steps[:_SHORT_WALK]
        for name in steps:
            await self._apply(name)
            self.observed.steps.append((name, self.life.world()))
            if name == "one":
                await asyncio.sleep(0)
                files = {"files": len(self.life.paths())}
                tasks = {"tasks": len(asyncio.all_tasks())}
                samples = await in_a_thread("metrics", CALL_SECONDS, lambda: [*self.life.consumer.metrics()])
                figures = {"samples": len(samples)} if isinstance(samples, list) else {}
                self.observed.counts.append({**process.Holdings.now().counts, **files, **tasks, **figures})

    @contextmanager
    def _scraping(self) -> Iterator[None]:
        """Read the metrics on another thread, again and again."""
        consumer, ended = self.life.consumer, threading.Event()
        if type(consumer).metrics is Consumer.metrics:
            yield
            return

        def scrape() -> None:
            while not ended.wait(_READING_SECONDS):
                try:
                    list(consumer.metrics())
                except BaseException as error:  # noqa: BLE001 - examined by a clause
                    self.observed.metrics_errors.append(describe(error))
                    return

        thread = threading.Thread(target=scrape, daemon=True, name="contract scrape")
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join(1)

    async def _fail(self) -> None:
        """Let applies of the second snapshot fail; then apply the same snapshot again, or another one before."""
        await self._fail_once(self.second)
        if not self.session.is_slow and "port" in self.observed.expected:
            await self._fail_once("port", self.second)

    async def _fail_once(self, *then: str) -> None:
        if not self.session.is_very_slow:  # else it has just been applied
            await self._apply(self.first)
        failed = Failed(self.second)
        with ExitStack() as stack:
            sabotage = self.session.contract.sabotage(self.session.run_dir)
            if sabotage is None:
                failed.operations = stack.enter_context(failing_writes())
            else:
                stack.enter_context(sabotage)
                failed.operations = ["sabotage() of the contract"]
            try:
                await self._apply(self.second)
            except HangError:
                raise
            except BaseException as error:  # noqa: BLE001 - after any exception the core tries again
                failed.raised = error
                self.life.previous = self.session.states[self.first].snapshot
        failed.effect = self.life.world()
        failed.health = await outcome("health", CALL_SECONDS, self.life.consumer.health)
        self.observed.failed.append(failed)
        for name in then:
            await self._apply(name)
            self.observed.after_failure.append((name, self.life.world()))

    async def _cancel(self) -> None:
        """Cancel applies of the two snapshots in turn: at the first turns of the loop, and within."""
        seconds, present, name = self.session.apply_seconds, self.second, self.first
        for cut in (seconds / 4, 0) if self.session.is_slow else (0, 0, 1, seconds / 2):
            if self.session.is_slow and self.observed.cancelled:
                break
            before, begun = self.session.states[present].snapshot, time.monotonic()
            task = asyncio.ensure_future(self._apply(name))
            for _ in range(1 + int(cut)):
                await asyncio.sleep(0)
            is_blocking = task.done() and time.monotonic() - begun > seconds / 2
            if 0 < cut < 1 and not task.done():
                await asyncio.sleep(cut)
            if task.done():
                task.result()
                present, name = name, present
                if is_blocking and self.session.is_slow:
                    break  # a consumer that blocks cannot be cancelled
                continue
            task.cancel()
            with limited("apply, after it was cancelled,", CALL_SECONDS):
                await asyncio.wait({task})
            returned: object = "apply returned as if it had not been cancelled"
            if task.cancelled():
                returned = asyncio.CancelledError()
            elif task.exception() is not None:
                returned = task.exception()
            self.life.previous = before
            await self._apply(name)
            self.observed.cancelled.append(Cancelled(returned, name, self.life.world()))
            present, name = name, present

    async def _live_beside(self) -> None:
        """Run another instance in other directories, and look whether the instances disturb each other."""
        session, life = self.session, self.life
        if not session.is_very_slow:
            await self._apply(self.second)
        before, other = life.world(), session.top / "beside"
        (other / "run").mkdir(parents=True, exist_ok=True)
        (other / "state").mkdir(exist_ok=True)
        (session.top / "nothing").mkdir(exist_ok=True)
        depends = Life.world_in(session.contract, session.top / "nothing") != before
        if not depends:
            self.observed.neighbour = "world() does not depend on the run directory"
            return
        beside = Life(session.contract, session.contract._aside, other / "run", other / "state" / "contract")  # noqa: SLF001
        try:
            try:
                await beside.begin()
                await beside.apply(session.states[self.second])
                files = [
                    str(path.relative_to(other / "run")) for path in beside.paths() if (other / "run") in path.parents
                ]
                if not session.is_very_slow:
                    await beside.apply(session.states[self.first])
            except HangError:
                raise
            except Exception as error:  # noqa: BLE001 - two instances may want one port
                self.observed.neighbour = describe(error)
            else:
                self.observed.files_of_both = life.names(), files
            during = life.world()
        finally:
            await beside.end()
        self.observed.beside = before, during, life.world()
        if not session.is_slow:
            try:
                await self._apply(self.first)
                self.observed.after_neighbour = life.world()
            except HangError:
                raise
            except Exception as error:  # noqa: BLE001 - what the neighbour has ended may be needed
                self.observed.after_neighbour = describe(error)


def a_new_instance_has_the_same_effect(seen: Harsh) -> None:
    """A daemon that restarts serves the same as the daemon before: the snapshot alone decides."""
    expected = seen.expected[seen.first]
    expect(seen.start == expected, "the effect of an instance before", _both(seen.start, expected))


def the_order_of_changes_does_not_matter(seen: Harsh) -> None:
    """The core merges changes and leaves states out: the effect is a function of the snapshot, not of the way to it."""
    for number, (name, effect) in enumerate(seen.steps):
        way = " -> ".join((seen.first, *(each for each, _ in seen.steps[: number + 1])))
        expected = seen.expected[name]
        expect(
            effect == expected,
            f"the effect of the state {name!r} as on another way",
            f"{way}: {_both(effect, expected)}",
        )


def nothing_grows_with_the_applies(seen: Harsh) -> None:
    """A daemon lives for months and applies every second: what grows by one with each apply ends the process."""
    for kind in seen.counts[0] if len(seen.counts) > 3 else ():
        counts = [each.get(kind, 0) for each in seen.counts[1:]]
        grows = all(one < other for one, other in pairwise(counts))
        expect(not grows, f"as many {kind} at each visit of the same state", counts)


def metrics_can_be_read_during_an_apply(seen: Harsh) -> None:
    """A scrape comes from another thread: what `apply` changes meanwhile must not end the scrape."""
    expect(not seen.metrics_errors, "samples at any time", seen.metrics_errors)


def a_failed_apply_raises(seen: Harsh) -> None:
    """The core tells a failure, and tries again, only after an exception; else it shows the revision as applied."""
    for failed in seen.failed:
        if failed.operations and failed.raised is None:
            expected = seen.expected[failed.name]
            told = f"a return, although this failed: {failed.operations}; {_both(failed.effect, expected)}"
            expect(failed.effect == expected, "an exception, or the whole effect", told)


def health_is_told_after_a_failure(seen: Harsh) -> None:
    """The core asks every few seconds, also after an apply that failed."""
    for failed in seen.failed:
        is_health_told(failed.health, "after a failed apply")


def an_apply_after_a_failed_one_sets_everything_right(seen: Harsh) -> None:
    """After a failure the core applies the newest snapshot. `changes` is then the difference from the last success."""
    for name, effect in seen.after_failure:
        expected = seen.expected[name]
        expect(effect == expected, f"the effect of {name!r} after a failed apply", _both(effect, expected))


def an_apply_can_be_cancelled(seen: Harsh) -> None:
    """The core cancels an apply when the daemon stops; a consumer that goes on, or hides that, is abandoned."""
    told = [each.outcome for each in seen.cancelled]
    # A cancellation that comes together with the last result may be lost: so the same cut is made twice.
    wrong = [each for each in told if not isinstance(each, asyncio.CancelledError)]
    expect(len(wrong) < min(2, len(told)) or not wrong, "CancelledError from an apply that is cancelled", wrong)


def an_apply_after_a_cancelled_one_is_right(seen: Harsh) -> None:
    """A cancelled apply is half done, and the next apply has the same snapshot: nothing of it counts as done."""
    for each in seen.cancelled:
        expected = seen.expected[each.name]
        expect(
            each.effect_of_next == expected, "the whole effect of the snapshot", _both(each.effect_of_next, expected)
        )


def two_instances_do_not_touch_each_other(seen: Harsh) -> None:
    """A configuration may have a plugin twice, under two names: module and class variables are shared by both."""
    before, during, after = seen.beside
    expect(before == during, "the effect of an instance, while another applies", _both(before, during))
    expect(before == after, "the effect of an instance, when another is torn down", _both(before, after))
    if seen.after_neighbour is not None:
        first = seen.expected["snapshot 0"]
        same = seen.after_neighbour == first
        expect(same, "the effect of an apply after the end of another instance", _both(seen.after_neighbour, first))
    own, other = seen.files_of_both
    expect(bool(own) == bool(other), "files of both instances, in their own directories", f"{own} and {other}")


WAYS: tuple[Callable[[Harsh], None], ...] = (
    a_new_instance_has_the_same_effect,
    the_order_of_changes_does_not_matter,
    nothing_grows_with_the_applies,
    metrics_can_be_read_during_an_apply,
)
FAILURES: tuple[Callable[[Harsh], None], ...] = (
    a_failed_apply_raises,
    health_is_told_after_a_failure,
    an_apply_after_a_failed_one_sets_everything_right,
)
CANCELLATIONS: tuple[Callable[[Harsh], None], ...] = (
    an_apply_can_be_cancelled,
    an_apply_after_a_cancelled_one_is_right,
)


def _both(one: object, other: object) -> str:
    return difference(one, other)
