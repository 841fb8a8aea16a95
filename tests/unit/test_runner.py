"""The applies of a consumer by its runner: the latest snapshot, the difference, retries and the quiet period."""

import asyncio
import functools
import random
import threading
import time
from pathlib import Path

import pytest
import structlog
from consumers import Recorder, at, instance, phase_is, recorder, revisions, running

from discovery import ApplyError, Health, Update, diff
from discovery.consuming.resolving import SnapshotResolver
from discovery.consuming.runner import ConsumerRunner
from discovery.hosting.isolation import Phase
from discovery.hosting.tables import Filter
from discovery.testing import eventually, eventually_sync, within


def test_applies_with_the_difference_from_what_was_last_applied(tmp_path: Path) -> None:
    consumer = recorder()
    with running(instance(consumer), tmp_path) as runner:
        runner.offer(at(1, 80, 81))
        eventually_sync(lambda: revisions(consumer.updates) == [1])
        runner.offer(at(2, 81, 82))
        eventually_sync(lambda: revisions(consumer.updates) == [1, 2])
    first, second = consumer.updates
    assert first.previous is None
    assert [b.port for b in first.changes.added] == [80, 81]
    assert second.previous is first.snapshot
    assert [b.port for b in second.changes.added] == [82]
    assert [b.port for b in second.changes.removed] == [80]
    assert consumer.events == ["setup", "teardown"]


def is_applied(runner: ConsumerRunner, revision: int) -> bool:
    """Report whether the consumer has applied this revision."""
    return runner.status.applied_revision == revision


async def test_changes_are_those_since_the_last_apply_whatever_came_and_went_meanwhile(tmp_path: Path) -> None:
    consumer, choices = recorder(), random.Random(1)
    made = instance(consumer)
    runner = ConsumerRunner(made, tmp_path, structlog.get_logger())
    resolver = SnapshotResolver(structlog.get_logger(), lambda resolved: runner.offer(*resolved))
    runner.start()
    for revision in range(1, 300):
        if choices.random() < 0.1:
            await resolver.close()  # as at a reload with another registry
        if choices.random() < 0.1:
            runner.reconfigure(made._replace(filter=choices.choice([None, Filter(services="none"), Filter()])))
        resolver.take(at(revision, *choices.sample(range(1, 9), choices.randint(1, 8))))
        if revision == 299 or choices.random() < 0.5:
            await eventually(functools.partial(is_applied, runner, revision))
    await resolver.close()
    runner.stop()
    assert await runner.join(within(10))
    for update in consumer.updates:
        assert update.changes == diff(update.previous, update.snapshot)


async def test_the_first_snapshot_is_compared_once_for_all_consumers(tmp_path: Path) -> None:
    consumer = recorder()
    runner = ConsumerRunner(instance(consumer), tmp_path, structlog.get_logger())
    resolver = SnapshotResolver(structlog.get_logger(), lambda resolved: runner.offer(*resolved))
    runner.start()
    resolver.take(at(1, 80, 81))
    await eventually(functools.partial(is_applied, runner, 1))
    assert resolver.latest is not None
    assert resolver.latest.step is not None
    assert consumer.updates[0].changes is resolver.latest.step.changes
    await resolver.close()
    runner.stop()
    assert await runner.join(within(10))


def test_a_snapshot_without_a_difference_counts_as_applied_without_an_apply(tmp_path: Path) -> None:
    consumer = recorder()
    with running(instance(consumer), tmp_path) as runner:
        runner.offer(at(1, 80))
        eventually_sync(lambda: runner.status.applied_revision == 1)
        runner.offer(at(7, 80))
        eventually_sync(lambda: runner.status.applied_revision == 7)
    assert revisions(consumer.updates) == [1]


def test_while_busy_only_the_latest_snapshot_waits(tmp_path: Path) -> None:
    entered, leave = threading.Event(), threading.Event()

    async def apply(self: Recorder, update: Update) -> None:
        self.updates.append(update)
        entered.set()
        leave.wait(within(10))

    consumer = recorder(apply=apply)
    with running(instance(consumer), tmp_path) as runner:
        runner.offer(at(1, 1))
        assert entered.wait(within(5))
        for revision in range(2, 1000):
            runner.offer(at(revision, revision))
        assert runner.status.phase is Phase.APPLYING
        assert runner.status.behind_since is not None
        leave.set()
        eventually_sync(lambda: runner.status.applied_revision == 999)
        eventually_sync(lambda: runner.status.behind_since is None)
    assert revisions(consumer.updates) == [1, 999]


def test_a_failed_apply_is_retried_with_the_difference_from_the_last_success(tmp_path: Path) -> None:
    attempts: list[Update] = []

    async def apply(self: Recorder, update: Update) -> None:
        attempts.append(update)
        if update.snapshot.revision == 2 and len(attempts) < 4:
            raise RuntimeError("no such luck")
        self.updates.append(update)

    consumer = recorder(apply=apply)
    with running(instance(consumer), tmp_path) as runner:
        runner.offer(at(1, 80))
        eventually_sync(lambda: runner.status.applied_revision == 1)
        runner.offer(at(2, 81))
        eventually_sync(lambda: runner.status.error == "RuntimeError: no such luck")
        assert runner.status.problem == "RuntimeError: no such luck"
        eventually_sync(lambda: runner.status.applied_revision == 2)
        assert runner.status.error is None
        assert runner.status.failures == 2
    assert all(attempt.previous.revision == 1 for attempt in attempts[1:])
    assert [b.port for b in attempts[-1].changes.added] == [81]


def test_a_new_snapshot_does_not_shorten_the_wait_after_a_failure(tmp_path: Path) -> None:
    times: list[float] = []

    async def apply(self: Recorder, update: Update) -> None:
        times.append(time.monotonic())
        raise RuntimeError("never")

    with running(instance(recorder(apply=apply)), tmp_path) as runner:
        offers = iter(range(1, 10_000))

        def three_attempts_under_a_stream_of_snapshots() -> bool:
            revision = next(offers)
            runner.offer(at(revision, revision))
            return len(times) >= 3

        eventually_sync(three_attempts_under_a_stream_of_snapshots)
    # The first waits are 0.5 s and 1 s, a fifth less at the least.
    assert times[1] - times[0] >= 0.4
    assert times[2] - times[1] >= 0.8


def test_request_apply_applies_again_without_a_change_and_at_once(tmp_path: Path) -> None:
    broken = [True]

    async def apply(self: Recorder, update: Update) -> None:
        if broken[0]:
            raise RuntimeError("template")
        self.updates.append(update)

    consumer = recorder(apply=apply)
    with running(instance(consumer), tmp_path) as runner:
        runner.offer(at(1, 80))
        eventually_sync(lambda: runner.status.failures >= 3, timeout=10)
        broken[0] = False
        runner.request_apply()
        eventually_sync(lambda: runner.status.applied_revision == 1, timeout=1)
        runner.request_apply()
        eventually_sync(lambda: len(consumer.updates) == 2)
    assert not consumer.updates[1].changes


def test_an_apply_that_an_operator_asks_for_is_told_from_a_retry(tmp_path: Path) -> None:
    attempts: list[Update] = []

    async def apply(self: Recorder, update: Update) -> None:
        attempts.append(update)
        if len(attempts) < 3:
            raise RuntimeError("no such luck")

    with running(instance(recorder(apply=apply)), tmp_path) as runner:
        runner.offer(at(1, 80))
        eventually_sync(lambda: runner.status.applied_revision == 1)
        assert [attempt.operator_request for attempt in attempts] == [False, False, False]
        runner.reload()
        eventually_sync(lambda: len(attempts) == 4)
        runner.request_apply()
        eventually_sync(lambda: len(attempts) == 5)
    assert [attempt.operator_request for attempt in attempts[3:]] == [True, False]


def test_health_is_asked_on_its_schedule_and_the_lag_is_right_under_steady_change(tmp_path: Path) -> None:
    """Point 27. There is always another change to apply; each waits for no longer than two applies."""
    asked: list[float] = []

    async def apply(self: Recorder, update: Update) -> None:
        self.updates.append(update)
        await asyncio.sleep(0.1)

    async def health(self: Recorder) -> Health:
        asked.append(time.monotonic())
        return Health(ok=len(asked) < 3, detail="the third time")

    consumer = recorder(apply=apply, health=health)
    offered: list[float] = []
    with running(instance(consumer), tmp_path) as runner:

        def unwell() -> bool:
            revision = len(offered) + 1
            offered.append(time.monotonic())
            runner.offer(at(revision, 1000 + revision))
            since = runner.status.behind_since
            assert since is not None
            # The oldest change that is not applied is the first after the one that was.
            applied = runner.status.applied_revision or 0
            oldest = offered[min(applied, len(offered) - 1)]
            lags.append(abs(since - oldest))
            return runner.status.problem == "the third time"

        lags: list[float] = []
        eventually_sync(unwell, timeout=60)
        assert len(consumer.updates) > 10
        # Seen between two looks at the figures it may be an apply older.
        assert max(lags) < (offered[-1] - offered[0]) / 2
        eventually_sync(lambda: runner.status.behind_since is None)


@pytest.mark.parametrize("raised", [asyncio.CancelledError, SystemExit])
def test_an_apply_that_raises_what_is_no_failure_elsewhere_is_tried_again(
    tmp_path: Path, raised: type[BaseException]
) -> None:
    async def apply(self: Recorder, update: Update) -> None:
        self.updates.append(update)
        if len(self.updates) == 1:
            raise raised

    consumer = recorder(apply=apply)
    with running(instance(consumer), tmp_path) as runner:
        runner.offer(at(1, 80))
        eventually_sync(lambda: runner.status.applied_revision == 1)
        assert runner.status.failures == 1
    assert consumer.events == ["setup", "teardown"]


def test_changes_within_the_quiet_period_are_applied_together(tmp_path: Path) -> None:
    consumer = recorder()
    with running(instance(consumer, quiet_period=0.5), tmp_path) as runner:
        runner.offer(at(1, 80))
        eventually_sync(lambda: revisions(consumer.updates) == [1])
        for revision in range(2, 12):
            runner.offer(at(revision, revision))
        eventually_sync(lambda: runner.status.applied_revision == 11)
    assert revisions(consumer.updates) == [1, 11]


def test_changes_that_never_pause_do_not_hold_an_apply_off(tmp_path: Path) -> None:
    consumer = recorder()
    with running(instance(consumer, quiet_period=0.2), tmp_path) as runner:
        runner.offer(at(1, 80))
        eventually_sync(lambda: revisions(consumer.updates) == [1])
        revision = iter(range(2, 10**6))

        def offered_once_more_and_applied() -> bool:
            runner.offer(at(number := next(revision), number % 60000 + 1))
            return len(consumer.updates) > 2

        eventually_sync(offered_once_more_and_applied)


def test_what_failed_is_applied_even_if_the_registry_is_back_to_what_was_applied(tmp_path: Path) -> None:
    async def apply(self: Recorder, update: Update) -> None:
        self.updates.append(update)
        if update.snapshot.revision == 2:
            raise ApplyError("half way")

    consumer = recorder(apply=apply)
    with running(instance(consumer), tmp_path) as runner:
        runner.offer(at(1, 80))
        eventually_sync(lambda: runner.status.applied_revision == 1)
        runner.offer(at(2, 81))
        eventually_sync(phase_is(runner, Phase.RETRYING))
        runner.offer(at(3, 80))
        eventually_sync(lambda: runner.status.applied_revision == 3)
        assert revisions(consumer.updates)[-1] == 3
        eventually_sync(lambda: runner.status.problem is None)
