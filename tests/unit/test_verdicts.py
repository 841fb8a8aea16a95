"""What outcomes amount to: rise and fall, draining, weights, pace."""

import itertools
import math
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from discovery.checks import Check, Outcome, Probe, Verdict
from discovery.model import Backend, State
from discovery.probes import TcpProbe
from discovery.providing.verdicts import Judgement, Standing, as_registered, judge
from discovery.testing import backend

P, D, F = Verdict.PASSING, Verdict.DRAINING, Verdict.FAILING
PROBE: Probe = TcpProbe()
verdicts = st.sampled_from([P, D, F])
checks = st.builds(
    Check,
    st.just(PROBE),
    interval=st.floats(0.1, 60),
    rise=st.integers(1, 4),
    fall=st.integers(1, 4),
    weight_interval=st.floats(0, 30),
)


def standings(check: Check, *told: Verdict) -> list[Standing]:
    outcomes = (Outcome(verdict, f"outcome {n}") for n, verdict in enumerate(told))
    return list(itertools.accumulate(outcomes, lambda s, o: s.after(check, o, 0.0), initial=Standing()))


def after(check: Check, *told: Verdict) -> Verdict | None:
    return standings(check, *told)[-1].verdict


def ends_with(history: list[Verdict], count: int, *kinds: Verdict) -> bool:
    return len(history) >= count and all(verdict in kinds for verdict in history[-count:])


@given(checks, st.lists(verdicts, min_size=1, max_size=40))
def test_a_verdict_changes_only_for_a_reason_in_the_latest_outcomes(check: Check, told: list[Verdict]) -> None:
    for n, (before, now) in enumerate(itertools.pairwise(standings(check, *told))):
        history = told[: n + 1]
        if F not in history or set(history[:-1]) <= {F}:
            # Never failed yet, or never worked before: draining begins at once, and so does working.
            assert (now.verdict is F) == (history[-1] is F)
        elif before.verdict is not F:
            assert (now.verdict is F) == ends_with(history, check.fall, F) or set(history) == {F}
        else:
            assert (now.verdict is not F) == ends_with(history, check.rise, P, D)
        if now.verdict is P and before.verdict is not P and set(history[:-1]) - {F}:
            assert ends_with(history, check.rise, P)
        if now.verdict is D:
            assert D in history
        assert now.detail == f"outcome {n}" or now.verdict is before.verdict


@given(checks, verdicts)
def test_the_first_outcome_counts_at_once(check: Check, first: Verdict) -> None:
    assert after(check, first) is first


@given(checks, st.integers(1, 50))
def test_what_has_never_worked_needs_to_work_once(check: Check, failures: int) -> None:
    assert after(check, *[F] * failures, P) is P
    assert after(check, *[F] * failures, D) is D


def test_rise_and_fall() -> None:
    check = Check(PROBE, rise=2, fall=3)
    assert after(check, P, F, F) is P
    assert after(check, P, F, F, P, F, F) is P
    assert after(check, P, F, F, F) is F
    assert after(check, P, F, F, F, P) is F
    assert after(check, P, F, F, F, P, F, P) is F
    assert after(check, P, F, F, F, P, P) is P


def test_draining_begins_at_once_and_ends_by_rise() -> None:
    check = Check(PROBE, rise=2, fall=3)
    assert after(check, P, D) is D
    assert after(check, P, D, P) is D
    assert after(check, P, D, P, D, P) is D
    assert after(check, P, D, P, P) is P
    assert after(check, P, F, F, F, D, P) is D
    assert after(check, P, F, F, F, D, P, P) is P


@given(checks, st.lists(st.tuples(st.integers(0, 256), st.floats(0.05, 5)), min_size=1, max_size=60))
def test_weights_are_followed_within_their_range_and_seldom(check: Check, told: list[tuple[int, float]]) -> None:
    standing, now, announced = Standing(), 0.0, list[tuple[float, int]]()
    for n, (weight, pause) in enumerate(told):
        now += pause
        standing = standing.after(check, Outcome(weight=weight), now)
        assert standing.weight is not None
        if n == 0:
            assert standing.weight == weight
        seen = [w for w, _ in told[: n + 1]]
        assert min(seen) <= standing.weight <= max(seen) or standing.weight == 1
        if 0 not in seen:
            assert standing.weight > 0
        if not announced or announced[-1][1] != standing.weight:
            announced.append((now, standing.weight))
    for (earlier, _), (later, _) in itertools.pairwise(announced):
        assert later - earlier >= check.weight_interval


@given(checks, st.integers(1, 256), st.integers(0, 256))
def test_a_weight_that_stays_is_reached(check: Check, first: int, last: int) -> None:
    standing = Standing().after(check, Outcome(weight=first), 0.0)
    share = 1 - math.exp(-check.interval / check.weight_interval) if check.weight_interval else 1
    now = 0.0
    for _ in range(math.ceil(8 / share)):
        now += 31
        standing = standing.after(check, Outcome(weight=last), now)
    assert standing.weight == last


def test_a_measure_is_smoothed_and_a_zero_is_not() -> None:
    check = Check(PROBE, interval=1, weight_interval=10)
    standing = Standing().after(check, Outcome(weight=100), 0.0).after(check, Outcome(weight=1), 60.0)
    assert standing.weight is not None
    assert 80 < standing.weight < 100
    assert standing.after(check, Outcome(weight=0), 120.0).weight == 0
    assert standing.after(check, Outcome(F), 120.0).weight == standing.weight


@given(checks, st.integers(1, 2000))
def test_the_pace_is_quick_until_it_works_and_never_slower_than_the_interval(check: Check, failures: int) -> None:
    pauses = [standing.pause(check) for standing in standings(check, *[F] * failures)[1:]]
    assert pauses[0] == min(0.1, check.interval)
    assert all(a <= b <= 2 * a + 1e-9 for a, b in itertools.pairwise(pauses))
    assert max(pauses) <= check.interval
    worked = standings(check, *[F] * failures, P, F)
    assert [standing.pause(check) for standing in worked[-2:]] == [check.interval] * 2


def test_a_check_without_an_interval_does_not_spin() -> None:
    check = Check(PROBE, interval=0)
    assert all(standing.pause(check) > 0 for standing in standings(check, F, F, P, P))


@given(st.lists(verdicts, max_size=4))
def test_the_worst_verdict_wins(told: list[Verdict]) -> None:
    stands = {Check(PROBE, interval=n + 1.0): Standing(verdict) for n, verdict in enumerate(told)}
    worst = F if F in told else D if D in told else P
    assert judge(stands).verdict is worst


def test_what_is_not_known_yet_is_inherited_but_a_failure_is_known_at_once() -> None:
    a, b = Check(PROBE, interval=1), Check(PROBE, interval=2)
    assert judge({a: Standing(P), b: Standing()}).verdict is None
    assert judge({a: Standing(P), b: Standing()}, P).verdict is P
    assert judge({a: Standing(D), b: Standing()}, P).verdict is D
    assert judge({a: Standing(P), b: Standing()}, F).verdict is F
    assert judge({a: Standing(P), b: Standing(P)}, F).verdict is P
    assert judge({a: Standing(F), b: Standing()}).verdict is F


def test_a_failure_drains_only_if_every_failing_check_says_so() -> None:
    keep, lose = Check(PROBE, on_failure="drain"), Check(PROBE)
    assert judge({keep: Standing(F), lose: Standing(P)}).drains
    assert not judge({keep: Standing(P), lose: Standing(F)}).drains
    assert not judge({keep: Standing(F), lose: Standing(F)}).drains


def test_the_details_and_the_least_weight_are_told() -> None:
    a, b, c = (Check(PROBE, interval=n) for n in (1, 2, 3))
    judgement = judge({a: Standing(F, "no page"), b: Standing(F, "no port"), c: Standing(P, "fine", weight=7)})
    assert judgement.detail == "no page; no port"
    assert judge({a: Standing(P, weight=9), b: Standing(P, weight=4), c: Standing(P)}).weight == 4


@given(
    st.builds(
        Judgement,
        st.sampled_from([None, P, D, F]),
        weight=st.none() | st.integers(0, 256),
        drains=st.booleans(),
    ),
    st.booleans(),
    st.sampled_from(list(State)),
)
def test_what_is_registered_and_how(judgement: Judgement, proven: bool, state: State) -> None:
    given_: Backend = replace(backend(labels={"zone": "a"}), weight=5, state=state)
    result = as_registered(given_, judgement, proven=proven)
    kept = judgement.verdict in (P, D) or (judgement.verdict is F and proven and judgement.drains)
    assert (result is not None) == kept
    if result is not None:
        assert result.weight == (5 if judgement.weight is None else judgement.weight)
        assert result.state is (State.ACTIVE if judgement.verdict is P and state is State.ACTIVE else State.DRAINING)
        assert result == replace(given_, weight=result.weight, state=result.state)
