"""Point 6: how often something is logged."""

import time

import pytest

from discovery.system.frequency import Budget, Failures, kind, times


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_a_budget_is_a_burst_and_then_a_rate(clock: list[float]) -> None:
    budget = Budget(3, 10.0)
    assert [budget.take() for _ in range(5)] == [True, True, True, False, False]
    clock[0] += 10
    assert [budget.take() for _ in range(2)] == [True, False]
    clock[0] += 10_000
    assert [budget.take() for _ in range(5)] == [True, True, True, False, False]


def test_a_failure_that_goes_on_is_repeated_ever_less_often(clock: list[float]) -> None:
    failures, told = Failures(), []
    for second in range(4 * 3600):
        clock[0] = 1000.0 + second
        if failures.add(f"process {second} does not answer"):
            told.append(second)
    assert told == [0, 60, 180, 420, 900, 1860, 3780, 7380, 10980]
    assert failures.count == 4 * 3600


def test_a_new_reason_is_told_at_once_and_two_that_alternate_are_not(clock: list[float]) -> None:
    failures = Failures()
    assert [failures.add(reason) for reason in ("a", "a", "b", "a", "b", "c")] == [
        True,
        False,
        True,
        False,
        False,
        True,
    ]
    assert sum(failures.add("x" * n) for n in range(1000)) < 30
    assert failures.end() == 1006
    assert failures.add("a")
    assert failures.end() == 1
    assert failures.end() == 0


def test_words() -> None:
    assert kind("port 80 of 10.0.0.1") == kind("port 8080 of 10.20.0.1")
    assert (times(1), times(2)) == ("1 failure", "2 failures")
