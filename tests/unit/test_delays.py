"""How long consumers take for changes: what waits, what is counted, and the histograms of `/metrics`."""

import re
import time
from pathlib import Path

import pytest
from consumers import instance, recorder, running
from hypothesis import given
from hypothesis import strategies as st

from discovery import Snapshot
from discovery.admin.metrics import metrics
from discovery.admin.status import DaemonStatus
from discovery.consuming.histograms import BOUNDS, NO_DELAYS, Histogram
from discovery.consuming.history import Applied, Change, delay_by
from discovery.consuming.resolving import Step
from discovery.consuming.runner import ConsumerRunner, ConsumerStatus
from discovery.consuming.waiting import Waiting, WaitingChanges
from discovery.hosting.tables import Filter
from discovery.model import diff
from discovery.testing import backend, eventually_sync


def at(number: int, arrived: float = 0.0, *, listing: bool = False) -> Change:
    return Change(number, number, 0.0, arrived, arrived, listing, 1, 0, 0, 0, (), frozenset({"web"}))


def offer(runner: ConsumerRunner, number: int, before: Snapshot | None, after: Snapshot) -> None:
    """Offer a step as the daemon does, with the change, which arrives now."""
    step = Step(number, diff(before, after), before is None)
    runner.offer(after, None, step, (at(number, time.monotonic(), listing=before is None),))


def web(number: int, service: str = "web") -> Snapshot:
    return Snapshot.of(number, [backend(service, "a", port=number)])


@given(st.lists(st.tuples(st.floats(0, 120), st.integers(1, 5)), max_size=20))
def test_a_histogram_counts_each_value_once_in_the_bucket_that_prometheus_expects(
    values: list[tuple[float, int]],
) -> None:
    histogram = Histogram().counting(values)
    for bound, count in zip((*BOUNDS, float("inf")), histogram.cumulative, strict=True):
        assert count == sum(times for value, times in values if value <= bound)
    assert histogram.total == pytest.approx(sum(value * times for value, times in values))


def test_the_buckets_reach_from_a_millisecond_to_a_minute() -> None:
    assert (BOUNDS[0], BOUNDS[-1]) == (0.001, 60.0)
    assert list(BOUNDS) == sorted(set(BOUNDS))


def test_a_change_waits_until_an_apply_covers_it_and_is_taken_once() -> None:
    waiting = WaitingChanges()
    waiting.put([at(1, listing=True), at(2), at(4)])
    waiting.put([at(5)])
    assert [each.change.number for each in waiting.take(4)] == [2, 4]
    assert waiting.take(4) == []
    assert [each.change.number for each in waiting.take(9)] == [5]


def test_of_too_many_changes_none_is_lost_and_few_are_kept() -> None:
    waiting = WaitingChanges(most=3)
    waiting.put(at(number, float(number)) for number in range(1, 101))
    assert waiting.take(100) == [Waiting(at(1, 1.0)), Waiting(at(2, 2.0)), Waiting(at(3, 3.0), 98)]


def test_each_change_that_a_consumer_has_applied_is_counted(tmp_path: Path) -> None:
    with running(instance(recorder(verify_seconds=0.0)), tmp_path) as runner:
        offer(runner, 1, None, web(1))
        eventually_sync(lambda: runner.status.applied_revision == 1)
        for number in range(2, 30):
            offer(runner, number, web(number - 1), web(number))
        eventually_sync(lambda: runner.status.delays.total.cumulative[-1] == 28)
        delays = runner.status.delays
    parts = (delays.watch, delays.queue, delays.apply, delays.verify)
    assert [each.cumulative[-1] for each in parts] == [28] * 4
    assert delays.total.total == pytest.approx(delays.watch.total + delays.queue.total + delays.apply.total)


def test_a_change_waits_for_the_attempt_that_succeeds(tmp_path: Path) -> None:
    fails = [OSError("the disk is full"), OSError("still")]

    async def apply(self: object, update: object) -> None:
        if fails and runner.history.applies:
            raise fails.pop()

    with running(instance(recorder(apply=apply)), tmp_path) as runner:
        offer(runner, 1, None, web(1))
        eventually_sync(lambda: runner.status.applied_revision == 1)
        offer(runner, 2, web(1), web(2))
        eventually_sync(lambda: runner.status.applied_revision == 2)
        eventually_sync(lambda: runner.status.delays.total.cumulative[-1] == 1)
        assert runner.status.delays.verify == Histogram(), "the consumer tells nothing of a proof"
        assert runner.status.delays.queue.total > 0.05, "the two attempts before, and the waits after them"


def test_what_a_filter_keeps_from_a_consumer_is_not_counted(tmp_path: Path) -> None:
    made = instance(recorder())._replace(filter=Filter(services="web"))
    with running(made, tmp_path) as runner:
        offer(runner, 1, None, web(1))
        eventually_sync(lambda: runner.status.applied_revision == 1)
        both = Snapshot.of(2, [*web(1).backends(), backend("db", "a")])
        offer(runner, 2, web(1), both)
        eventually_sync(lambda: runner.status.applied_revision == 2)
        offer(runner, 3, both, Snapshot.of(3, [*web(3).backends(), backend("db", "a")]))
        eventually_sync(lambda: runner.status.delays.total.cumulative[-1] > 0)
        assert runner.status.delays.total.cumulative[-1] == 1


def test_the_metrics_have_the_histograms_of_each_consumer() -> None:
    took = delay_by(at(3, 20.0), Applied(1, 4, 4, 20.3, 21.0, verify=0.4))
    counted = NO_DELAYS.counting([(took, 2)])
    status = DaemonStatus("memory:", consumers=(ConsumerStatus("one", "p", delays=counted), ConsumerStatus("two", "p")))
    samples = {
        (each.name.removeprefix("discovery_consumer_"), *sorted(each.labels.items())): each.value
        for metric in metrics(status)
        for each in metric.samples
        if each.name.startswith("discovery_consumer_delay")
    }

    def of(name: str, **labels: str) -> float:
        return samples[(name, *sorted(labels.items()))]

    assert of("delay_seconds_bucket", consumer="one", le="0.5") == 0
    assert of("delay_seconds_bucket", consumer="one", le="1.0") == 2
    assert of("delay_seconds_bucket", consumer="one", le="+Inf") == of("delay_seconds_count", consumer="one") == 2
    assert of("delay_seconds_sum", consumer="one") == pytest.approx(2.0)
    assert of("delay_part_seconds_sum", consumer="one", part="queue") == pytest.approx(0.6)
    assert of("delay_part_seconds_sum", consumer="one", part="apply") == pytest.approx(1.4)
    assert of("delay_part_seconds_sum", consumer="one", part="verify") == pytest.approx(0.8)
    assert of("delay_seconds_count", consumer="two") == 0, "a series stands from the start, so that rates are right"


def test_the_documents_list_each_metric_of_the_core() -> None:
    page = (Path(__file__).parents[2] / "docs/monitoring.md").read_text()
    listed = set(re.findall(r"^\| `(discovery_\w+)` \|", page, re.MULTILINE))
    status = DaemonStatus("memory:", snapshot=web(1))
    assert listed == {f"{each.name}{'_total' * (each.type == 'counter')}" for each in metrics(status)}
