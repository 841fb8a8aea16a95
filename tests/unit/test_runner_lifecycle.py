"""The life of a consumer in its runner: setup, reconfiguration, health, teardown and the end."""

import asyncio
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import structlog
from consumers import LOG, Options, Recorder, at, instance, phase_is, recorder, running

from discovery import ApplyError, CannotStartError, Health, Update
from discovery.consuming.runner import ConsumerRunner
from discovery.hosting.isolation import Phase, Timing
from discovery.testing import eventually_sync, within


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


async def _fails(self: Recorder, config: Options) -> bool:
    raise RuntimeError("not me")


@pytest.mark.parametrize("methods", [{}, {"reconfigure": _fails}], ids=["cannot", "fails"])
def test_restarted_for_a_new_configuration_when_it_cannot(tmp_path: Path, methods: dict[str, Any]) -> None:
    consumer = recorder(**methods)
    with structlog.testing.capture_logs() as logs, running(instance(consumer, tag="a"), tmp_path) as runner:
        runner.offer(at(1, 80))
        eventually_sync(lambda: len(consumer.updates) == 1)
        runner.reconfigure(instance(consumer, tag="b"))
        eventually_sync(lambda: len(consumer.updates) == 2)
        assert runner.status.failures == 0
    assert consumer.events == ["setup a", "teardown a", "setup b", "teardown b"]
    assert consumer.updates[1].previous is None
    told = [(each["event"], each["reason"]) for each in logs if each["log_level"] == "error"]
    assert told == ([("reconfigure failed, restarting", "RuntimeError: not me")] if methods else [])


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


def test_a_teardown_after_an_apply_that_finished_in_time_is_not_cut_short(tmp_path: Path) -> None:
    entered = threading.Event()

    async def apply(self: Recorder, update: Update) -> None:
        entered.set()
        await asyncio.sleep(0.1)

    async def teardown(self: Recorder) -> None:
        await asyncio.sleep(0.5)
        self.events.append("torn down")

    consumer = recorder(apply=apply, teardown=teardown)
    runner = ConsumerRunner(instance(consumer), tmp_path, LOG, timing=Timing(finish_grace=0.2))
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
    tmp_path: Path,
) -> None:
    timing = Timing(setup_retries=lambda: iter([60.0]))
    entered = threading.Event()

    async def setup(self: Recorder) -> None:
        raise OSError("not yet")

    async def teardown(self: Recorder) -> None:
        entered.set()
        await asyncio.sleep(0.5)

    runner = ConsumerRunner(instance(recorder(setup=setup, teardown=teardown)), tmp_path, LOG, timing=timing)
    runner.start()
    assert entered.wait(within(5))
    runner.stop()
    assert asyncio.run(runner.join(within(10)))
    assert runner.status.phase is Phase.STOPPED


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
