"""What a running consumer is asked for: figures, what it can tell, and how long it takes to stop."""

import asyncio
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs

from discovery import Consumer, DiscoveryError, PluginConfig, Update
from discovery.consuming.runner import ConsumerInstance, ConsumerRunner
from discovery.hosting.isolation import Phase
from discovery.plugin import Sample
from discovery.testing import backend, eventually_sync, snapshot, within


class Quiet(Consumer[PluginConfig]):
    async def apply(self, update: Update) -> None:
        pass


def consumer(**methods: Any) -> type[Quiet]:
    return type("Asked", (Quiet,), methods)


@contextmanager
def running(made: type[Quiet], run_dir: Path) -> Iterator[ConsumerRunner]:
    runner = ConsumerRunner(ConsumerInstance("it", "test", made, PluginConfig()), run_dir, structlog.get_logger())
    runner.start()
    try:
        yield runner
    finally:
        runner.stop()
        asyncio.run(runner.join(within(5)))


def samples(runner: ConsumerRunner, timeout: float = 5) -> tuple[Sample, ...]:
    return asyncio.run(runner.samples(timeout))


def test_figures_are_those_of_a_consumer_that_is_set_up(tmp_path: Path) -> None:
    go = threading.Event()

    async def setup(_: Quiet) -> None:
        await asyncio.to_thread(go.wait, 10)

    def metrics(_: Quiet) -> Iterable[Sample]:
        yield Sample("open", 3)

    with running(consumer(setup=setup, metrics=metrics), tmp_path) as runner:
        assert samples(runner) == ()
        go.set()
        eventually_sync(lambda: runner.status.set_up)
        assert [each.name for each in samples(runner)] == ["open"]
    assert samples(runner) == ()


def test_figures_that_fail_are_none_and_that_is_told_once(tmp_path: Path) -> None:
    def metrics(_: Quiet) -> Iterable[Sample]:
        yield Sample("open", 3)
        raise ValueError("a bug")

    with capture_logs() as logs, running(consumer(metrics=metrics), tmp_path) as runner:
        eventually_sync(lambda: runner.status.set_up)
        assert samples(runner) == samples(runner) == ()
    told = [line for line in logs if line["event"] == "a figure cannot be shown"]
    assert [line["reason"] for line in told] == ["ValueError: a bug"]


def test_figures_that_hang_hold_up_one_thread_and_nobody_else(tmp_path: Path) -> None:
    leave = threading.Event()
    calls: list[int] = []

    def metrics(_: Quiet) -> Iterable[Sample]:
        calls.append(1)
        leave.wait(within(30))
        return (Sample("open", 3),)

    with running(consumer(metrics=metrics), tmp_path) as runner:
        eventually_sync(lambda: runner.status.set_up)
        assert samples(runner, 0.05) == samples(runner, 0.05) == ()
        assert len(calls) == 1
        leave.set()
        assert [each.name for each in samples(runner)] == ["open"]


def test_tells_of_itself_between_applies(tmp_path: Path) -> None:
    leave = threading.Event()
    applying: list[bool] = []

    class Busy(Quiet):
        async def apply(self, update: Update) -> None:
            applying.append(True)
            await asyncio.to_thread(leave.wait, 10)
            applying.clear()

        async def inspect(self) -> Mapping[str, Any]:
            return {"applying": bool(applying)}

    with running(Busy, tmp_path) as runner:
        runner.offer(snapshot(backend()))
        eventually_sync(lambda: bool(applying))
        with pytest.raises(TimeoutError):
            asyncio.run(runner.inspect(0.05))
        leave.set()
        assert asyncio.run(runner.inspect(5)) == {"applying": False}


def test_what_it_tells_too_late_is_given_up(tmp_path: Path) -> None:
    ended: list[str] = []

    async def inspect(_: Quiet) -> Mapping[str, Any]:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise
        return {}

    with running(consumer(inspect=inspect), tmp_path) as runner:
        eventually_sync(lambda: runner.status.set_up)
        with pytest.raises(TimeoutError):
            asyncio.run(runner.inspect(0.05))
        eventually_sync(lambda: ended == ["cancelled"])
        assert runner.status.phase is Phase.WAITING


def test_a_consumer_that_does_not_run_tells_nothing(tmp_path: Path) -> None:
    async def setup(_: Quiet) -> None:
        raise ValueError("not yet")

    with running(consumer(setup=setup), tmp_path) as runner:
        eventually_sync(lambda: runner.status.setup_tried)
        with pytest.raises(DiscoveryError, match="not set up"):
            asyncio.run(runner.inspect(5))
    with pytest.raises(DiscoveryError, match="not running"):
        asyncio.run(runner.inspect(5))


@pytest.mark.parametrize(
    ("said", "given"), [(30.0, 30.0), (45, 45.0), (1.0, 10.0), (float("nan"), 10.0), ("soon", 10.0)]
)
def test_the_time_to_stop_is_what_it_says_but_no_less_than_others_have(
    tmp_path: Path, said: object, given: float
) -> None:
    with running(consumer(stop_seconds=said), tmp_path) as runner:
        eventually_sync(lambda: runner.status.set_up)
        assert runner.stop_seconds == given
    assert runner.stop_seconds == 10.0
