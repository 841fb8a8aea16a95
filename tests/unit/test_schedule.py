"""The schedule of a consumer's applies: retry, quiet period, request; the latest snapshot wins."""

import random

import pytest

from discovery.consuming.schedule import ApplySchedule


def test_nothing_is_applied_without_a_change() -> None:
    schedule = ApplySchedule()
    assert not schedule.is_due(10.0, changed=False)
    assert schedule.next_look(17.0, changed=False) == 17.0


def test_the_first_change_is_applied_at_once() -> None:
    assert ApplySchedule().is_due(0.0, changed=True)


def test_a_quiet_period_counts_from_the_first_change() -> None:
    schedule = ApplySchedule().first_change_at(10.0, 0.5)
    assert not schedule.is_due(10.4, changed=True)
    assert schedule.next_look(17.0, changed=True) == 10.5
    assert schedule.is_due(10.5, changed=True)


def test_a_change_that_is_taken_back_within_the_quiet_period_is_not_applied() -> None:
    assert not ApplySchedule().first_change_at(10.0, 0.5).is_due(11.0, changed=False)


def test_a_change_does_not_shorten_the_wait_after_a_failure() -> None:
    schedule = ApplySchedule().failed(10.0, 4.0)
    assert not schedule.is_due(13.9, changed=True)
    assert schedule.next_look(20.0, changed=True) == 14.0
    assert schedule.is_due(14.0, changed=True)


def test_a_failure_is_retried_even_if_the_snapshot_is_again_the_one_applied_before() -> None:
    assert ApplySchedule().failed(10.0, 4.0).is_due(14.0, changed=False)


@pytest.mark.parametrize("before", [ApplySchedule().failed(10.0, 4.0), ApplySchedule().first_change_at(10.0, 0.5)])
def test_a_request_waits_for_nothing(before: ApplySchedule) -> None:
    assert before.requested().is_due(10.0, changed=False)


def test_a_success_leaves_nothing_to_do() -> None:
    for before in (ApplySchedule().requested(), ApplySchedule().failed(10.0, 4.0)):
        assert not before.succeeded().is_due(1000.0, changed=False)
        assert before.succeeded().is_due(10.0, changed=True)


@pytest.mark.parametrize("seed", range(200))
def test_whatever_happens_the_latest_snapshot_is_applied_in_time_and_no_apply_comes_early(seed: int) -> None:
    """Simulate a consumer that fails now and then, over changes and requests at random instants."""
    choose = random.Random(seed)
    quiet, retry = choose.choice((0.0, 0.5, 3.0)), choose.choice((0.5, 2.0, 8.0))
    schedule = ApplySchedule()
    offered = applied = 0
    waiting_since: float | None = None
    retry_at: float | None = None
    requested = False
    now = 0.0
    for _ in range(300):
        now += choose.choice((0.0, 0.01, 0.2, 1.0, 5.0))
        event = choose.choice(("nothing", "change", "change", "request"))
        if event == "change":
            if not schedule.is_pending(changed=offered != applied) and quiet:
                schedule = schedule.first_change_at(now, quiet)
            offered += 1
            waiting_since = now if waiting_since is None else waiting_since
        elif event == "request":
            schedule, requested = schedule.requested(), True
        due = schedule.is_due(now, changed=offered != applied)
        if requested:
            assert due
        elif retry_at is not None:
            assert due == (now >= retry_at)
        elif waiting_since is not None:
            assert due == (now >= waiting_since + quiet)
        else:
            assert not due
        look = schedule.next_look(now + 60.0, changed=offered != applied)
        assert look <= now if due else look > now
        if due and choose.random() < 0.5:
            schedule, retry_at, requested = schedule.failed(now, retry), now + retry, False
        elif due:
            schedule, applied = schedule.succeeded(), offered
            waiting_since, retry_at, requested = None, None, False
    if offered != applied:
        assert schedule.is_due(max(now, schedule.next_look(now + 60.0, changed=True)), changed=True)
