"""The verdict, the weight and the pace that follow from the outcomes of checks. Pure."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from discovery.checks import Check, Outcome, Verdict
from discovery.model import Backend, State

_FIRST_PAUSE = 0.1
"""Seconds from the first failed check of a new candidate to the next check; the pause doubles up to the interval."""
_LEAST_PAUSE = 0.01
"""Seconds between two checks at least: an interval of 0 must not occupy a processor."""
_SEVERITY = {verdict: place for place, verdict in enumerate(Verdict)}


@dataclass(frozen=True, slots=True)
class Standing:
    """The result of the outcomes of a check so far. No verdict before the first outcome.

    `proven` is whether one of them was no failure. The counts are of the latest outcomes, in a row: `failed`, `worked`
    (passing or draining) and `passed`. `smooth` is the weight that is followed, `weight` the one announced at
    `weight_at`.
    """

    verdict: Verdict | None = None
    detail: str = ""
    proven: bool = False
    failed: int = 0
    worked: int = 0
    passed: int = 0
    smooth: float | None = None
    weight: int | None = None
    weight_at: float = -math.inf

    def after(self, check: Check, outcome: Outcome, now: float) -> "Standing":
        """Return the standing after a further outcome, at `now` (seconds of any clock)."""
        failing = outcome.verdict is Verdict.FAILING
        counted = replace(
            self,
            failed=self.failed + 1 if failing else 0,
            worked=0 if failing else self.worked + 1,
            passed=self.passed + 1 if outcome.verdict is Verdict.PASSING else 0,
        )
        verdict = _next(counted, check, outcome.verdict)
        told = verdict is outcome.verdict or self.verdict is not verdict
        judged = replace(
            counted,
            verdict=verdict,
            detail=outcome.detail if told else self.detail,
            proven=self.proven or not failing,
        )
        return judged if outcome.weight is None else _weighed(judged, check, outcome.weight, now)

    def pause(self, check: Check) -> float:
        """Seconds until the next run: few at first, so that what is just starting is soon seen to work."""
        if self.proven:
            return max(check.interval, _LEAST_PAUSE)
        return max(min(check.interval, _FIRST_PAUSE * 2.0 ** min(self.failed - 1, 20)), _LEAST_PAUSE)


def _next(standing: Standing, check: Check, latest: Verdict) -> Verdict:
    """The verdict, once `latest` is among what is counted. What has never worked needs to work only once."""
    if standing.verdict is None or not standing.proven:
        return latest
    if latest is Verdict.FAILING:
        return Verdict.FAILING if standing.failed >= check.fall else standing.verdict
    if standing.verdict is Verdict.FAILING and standing.worked < check.rise:
        return Verdict.FAILING
    if latest is Verdict.PASSING and (standing.verdict is Verdict.PASSING or standing.passed >= check.rise):
        return Verdict.PASSING
    return Verdict.DRAINING


def _weighed(standing: Standing, check: Check, weight: int, now: float) -> Standing:
    over = max(check.weight_interval, 0.0)
    share = -math.expm1(-max(check.interval, _LEAST_PAUSE) / over) if over else 1.0
    smooth = float(weight) if standing.smooth is None else standing.smooth + share * (weight - standing.smooth)
    if not weight:
        smooth = 0.0  # no measure but a decision: nothing new is to go there
    rounded = max(round(smooth), 1) if smooth else 0
    if rounded == standing.weight or (standing.weight is not None and now - standing.weight_at < over):
        return replace(standing, smooth=smooth)
    return replace(standing, smooth=smooth, weight=rounded, weight_at=now)


@dataclass(frozen=True, slots=True)
class Judgement:
    """The result of all checks of a candidate. No verdict: not known yet."""

    verdict: Verdict | None = None
    detail: str = ""
    weight: int | None = None
    drains: bool = False


def judge(standings: Mapping[Check, Standing], inherited: Verdict | None = None) -> Judgement:
    """The worst verdict wins. `inherited` stands for the checks that have none; without any check, all is well.

    A failure drains only if every check that fails says so.
    """
    weights = [standing.weight for standing in standings.values() if standing.weight is not None]
    weight = min(weights, default=None)
    known = [(standing.verdict, standing.detail) for standing in standings.values() if standing.verdict is not None]
    failing = [check for check, standing in standings.items() if standing.verdict is Verdict.FAILING]
    drains = all(check.on_failure == "drain" for check in failing or standings)
    if len(known) < len(standings) and not failing:
        if inherited is None:
            return Judgement(weight=weight)
        known.append((inherited, ""))
    verdict = max((verdict for verdict, _ in known), key=_SEVERITY.__getitem__, default=Verdict.PASSING)
    detail = "; ".join(dict.fromkeys(detail for each, detail in known if each is verdict and detail))
    return Judgement(verdict, detail, weight, drains)


def as_registered(backend: Backend, judgement: Judgement, *, proven: bool) -> Backend | None:
    """Return the backend to be registered, or None. What was never registered before is not so by failing."""
    if judgement.verdict is None:
        return None
    state, weight = backend.state, backend.weight if judgement.weight is None else judgement.weight
    if judgement.verdict is not Verdict.PASSING:
        if judgement.verdict is Verdict.FAILING and not (proven and judgement.drains):
            return None
        state = State.DRAINING
    if (state, weight) == (backend.state, backend.weight):
        return backend
    return replace(backend, state=state, weight=weight)
