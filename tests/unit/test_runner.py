"""One consumer, isolated: latest wins, retries, reconfiguration, health, stopping."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import structlog

from discovery import ApplyError, CannotStartError, Consumer, Health, PluginConfig, Snapshot, Update
from discovery.consuming.runner import ConsumerInstance, ConsumerRunner
from discovery.hosting.isolation import Phase
from discovery.testing import backend, eventually_sync, snapshot, within

LOG = structlog.get_logger()


class Options(PluginConfig):
    tag: str = ""


def instance(
    consumer: type[Consumer[Any]], name: str = "it", tag: str = "", quiet_period: float = 0
) -> ConsumerInstance:
    return ConsumerInstance(name, "test", consumer, Options(tag=tag), quiet_period)


class Recorder(Consumer[Options]):
    """Records what it is told; class attributes are set by each test in a subclass of its own."""

    Config = Options
    updates: list[Update]
    events: list[str]

    async def setup(self) -> None:
        self.events.append(f"setup {self.config.tag}".strip())

    async def apply(self, update: Update) -> None:
        self.updates.append(update)

    async def teardown(self) -> None:
        self.events.append(f"teardown {self.config.tag}".strip())


def recorder(**methods: Any) -> type[Recorder]:
    return type("Recording", (Recorder,), {"updates": [], "events": [], **methods})


@contextmanager
def running(made: ConsumerInstance, run_dir: Path) -> Iterator[ConsumerRunner]:
    runner = ConsumerRunner(made, run_dir, LOG)
    runner.start()
    try:
        yield runner
    finally:
        runner.stop()
        asyncio.run(runner.join(within(5)))


def revisions(updates: list[Update]) -> list[int]:
    return [update.snapshot.revision for update in updates]


def phase_is(runner: ConsumerRunner, phase: Phase) -> Callable[[], bool]:
    return lambda: runner.status.phase is phase


def at(revision: int, *ports: int) -> Snapshot:
    return snapshot(*(backend(port=port) for port in ports), revision=revision)


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
        assert runner.status.behind_since is None
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


def test_reconfigured_in_place_when_the_consumer_can(tmp_path: Path) -> None:
    async def reconfigure(self: Recorder, config: Options) -> bool:
        self.events.append(f"reconfigure {config.tag}")
        return True

    consumer = recorder(reconfigure=reconfigure)
    with running(instance(consumer, tag="a"), tmp_path) as runner:
        runner.offer(at(1, 80))
        eventually_sync(lambda: len(consumer.updates) == 1)
        runner.reconfigure(instance(consumer, tag="b"))
        eventually_sync(lambda: len(consumer.updates) == 2)
    assert consumer.events == ["setup a", "reconfigure b", "teardown a"]


def test_restarted_for_a_new_configuration_when_it_cannot(tmp_path: Path) -> None:
    consumer = recorder()
    with running(instance(consumer, tag="a"), tmp_path) as runner:
        runner.offer(at(1, 80))
        eventually_sync(lambda: len(consumer.updates) == 1)
        runner.reconfigure(instance(consumer, tag="b"))
        eventually_sync(lambda: len(consumer.updates) == 2)
    assert consumer.events == ["setup a", "teardown a", "setup b", "teardown b"]
    assert consumer.updates[1].previous is None


def test_setup_is_retried_with_a_fresh_instance_each_time(tmp_path: Path) -> None:
    async def setup(self: Recorder) -> None:
        self.events.append("setup")
        if self.events.count("setup") < 3:
            raise OSError("not yet")

    consumer = recorder(setup=setup)
    with running(instance(consumer), tmp_path) as runner:
        runner.offer(at(1, 80))
        eventually_sync(lambda: runner.status.setup_tried)
        eventually_sync(lambda: runner.status.applied_revision == 1)
    assert consumer.events == ["setup", "teardown"] * 3


def test_cannot_start_is_final(tmp_path: Path) -> None:
    async def setup(self: Recorder) -> None:
        raise CannotStartError("wrong machine")

    with running(instance(recorder(setup=setup)), tmp_path) as runner:
        eventually_sync(phase_is(runner, Phase.DEAD))
        assert runner.status.problem == "wrong machine"


def test_two_runners_on_one_run_directory_the_second_is_refused_by_name(tmp_path: Path) -> None:
    with running(instance(recorder()), tmp_path) as first:
        eventually_sync(phase_is(first, Phase.WAITING))
        with running(instance(recorder()), tmp_path) as second:
            eventually_sync(phase_is(second, Phase.DEAD))
            assert "'it'" in second.status.problem
            assert str(tmp_path / "it") in second.status.problem
        assert first.status.phase is Phase.WAITING


def test_health_is_asked_between_applies_and_a_raising_health_is_a_problem(tmp_path: Path) -> None:
    answers: list[Any] = [Health(ok=False, detail="one worker is gone")]

    async def health(self: Recorder) -> Health:
        if isinstance(answers[0], Exception):
            raise answers[0]
        return answers[0]

    with running(instance(recorder(health=health)), tmp_path) as runner:
        eventually_sync(lambda: runner.status.problem == "one worker is gone")
        answers[0] = RuntimeError("odd")
        eventually_sync(lambda: runner.status.problem == "RuntimeError: odd")
        answers[0] = Health(detail="fine")
        eventually_sync(lambda: runner.status.problem is None and runner.status.health.detail == "fine")


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


def test_an_apply_that_never_ends_is_cancelled_at_stop_and_torn_down(tmp_path: Path) -> None:
    entered = threading.Event()

    async def apply(self: Recorder, update: Update) -> None:
        entered.set()
        await asyncio.sleep(3600)

    consumer = recorder(apply=apply)
    runner = ConsumerRunner(instance(consumer), tmp_path, LOG)
    runner.offer(at(1, 80))
    runner.start()
    assert entered.wait(within(5))
    runner.stop()
    assert asyncio.run(runner.join(within(10)))
    assert consumer.events == ["setup", "teardown"]
    assert runner.status.phase is Phase.STOPPED


def test_a_teardown_after_an_apply_that_finished_in_time_is_not_cut_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("discovery.consuming.runner.FINISH_GRACE", 0.2)
    entered = threading.Event()

    async def apply(self: Recorder, update: Update) -> None:
        entered.set()
        await asyncio.sleep(0.1)

    async def teardown(self: Recorder) -> None:
        await asyncio.sleep(0.5)
        self.events.append("torn down")

    consumer = recorder(apply=apply, teardown=teardown)
    runner = ConsumerRunner(instance(consumer), tmp_path, LOG)
    runner.offer(at(1, 80))
    runner.start()
    assert entered.wait(within(5))
    runner.stop()
    assert asyncio.run(runner.join(within(10)))
    assert consumer.events == ["setup", "torn down"]


def test_a_teardown_may_time_out_what_it_waits_for(tmp_path: Path) -> None:
    """Point 29. In a cancelled task the timeouts of Python 3.11.2 raise CancelledError in place of TimeoutError."""
    told: list[object] = []

    async def never(self: Recorder, update: Update) -> None:
        self.events.append("applying")
        await asyncio.Event().wait()

    async def teardown(self: Recorder) -> None:
        task = asyncio.current_task()
        assert task is not None
        told.append(task.cancelling())
        try:
            async with asyncio.timeout(0.01):
                await asyncio.Event().wait()
        except TimeoutError:
            told.append("in order")

    consumer = recorder(apply=never, teardown=teardown)
    with running(instance(consumer), tmp_path) as runner:
        runner.offer(at(1, 80))
        eventually_sync(lambda: "applying" in consumer.events)
    assert told == [0, "in order"]


def test_a_stop_during_the_teardown_after_a_failed_setup_ends_it_without_waiting_to_try_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("discovery.hosting.isolation.delays", lambda: iter([60.0]))
    entered = threading.Event()

    async def setup(self: Recorder) -> None:
        raise OSError("not yet")

    async def teardown(self: Recorder) -> None:
        entered.set()
        await asyncio.sleep(0.5)

    runner = ConsumerRunner(instance(recorder(setup=setup, teardown=teardown)), tmp_path, LOG)
    runner.start()
    assert entered.wait(within(5))
    runner.stop()
    assert asyncio.run(runner.join(within(10)))
    assert runner.status.phase is Phase.STOPPED


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


def test_a_blocked_thread_is_abandoned_at_the_deadline(tmp_path: Path) -> None:
    entered, leave = threading.Event(), threading.Event()

    async def apply(self: Recorder, update: Update) -> None:
        entered.set()
        leave.wait(within(60))

    runner = ConsumerRunner(instance(recorder(apply=apply)), tmp_path, LOG)
    runner.offer(at(1, 80))
    runner.start()
    assert entered.wait(within(5))
    runner.stop()
    assert asyncio.run(runner.join(0.2)) is False
    leave.set()
    assert asyncio.run(runner.join(within(10)))


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


def test_how_long_a_restarted_consumer_is_behind_counts_from_its_restart(tmp_path: Path) -> None:
    async def apply(self: Recorder, update: Update) -> None:
        self.updates.append(update)
        if self.config.tag:
            raise ApplyError("not yet")

    consumer = recorder(apply=apply)
    with running(instance(consumer), tmp_path) as runner:
        runner.offer(at(1, 80))
        eventually_sync(lambda: runner.status.applied_revision == 1)
        before = time.monotonic()
        runner.reconfigure(instance(consumer, tag="b"))
        eventually_sync(phase_is(runner, Phase.RETRYING))
        assert (runner.status.behind_since or 0) >= before
