"""Runs the checks of a provider's candidates, and says which backends are to be registered, and how.

Knows neither providers nor the registry.
"""

import asyncio
import random
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

from structlog.typing import FilteringBoundLogger

from discovery.checks import Check, NamedProbe, Outcome, Probe, Verdict
from discovery.errors import describe
from discovery.model import Backend
from discovery.plugin import Candidate
from discovery.probes import ReportedProbe
from discovery.providing.verdicts import Standing, as_registered, judge
from discovery.system.asyncio_tools import is_being_cancelled
from discovery.system.limits import descriptor_limit
from discovery.system.lookups import Lookup
from discovery.system.terminal import printable

_BETWEEN_STARTS = 0.002
"""Seconds between the first checks of two new candidates, so that many candidates do not begin at the same moment."""
_ALL_STARTED = 1.0
"""Seconds in which the first checks of all new candidates begin, however many the candidates are."""
_LONGEST_DETAIL = 200
"""Characters of a check's reason that are kept: a reason is one line of a log, and may quote what a backend sent."""
_MOST_REASONS = 10  # that are logged of one candidate while its verdict stays: some texts have a time in them
_LEAST_SLOTS = 64
"""Checks that may run at the same time, before the slots grow with the number of candidates."""
_DESCRIPTORS_PER_SLOT = 8  # a probe by command has three; the rest is for everything else


@dataclass(frozen=True, slots=True)
class CandidateStatus:
    """A candidate: the backend as it is (or would be) registered; no verdict before the first outcome.

    `origin` is the reason for the backend's address, `verdict_since` the instant (`time.monotonic()`) since which the
    verdict is this one.
    """

    backend: Backend
    verdict: Verdict | None = None
    detail: str = ""
    registered: bool = False
    origin: str = ""
    verdict_since: float = field(default_factory=time.monotonic, compare=False)


class Checker:
    """Follows a set of candidates.

    `publish` is first called once every candidate of the first set has had its first outcome (or after `patience`
    seconds), and then at every difference, with all the backends to be registered, ordered by key.
    """

    def __init__(
        self,
        publish: Callable[[tuple[Backend, ...]], None],
        log: FilteringBoundLogger,
        lookup: Lookup,
        *,
        patience: float = 5.0,
        concurrency: int | None = None,
    ) -> None:
        """Begin with nothing. `lookup` is given to the probes that look up host names.

        At most `concurrency` probes run at a time, those of what fails in three quarters. By default there is room for
        one of every check, so that none waits for others that hang, as far as the limit on open descriptors permits.
        """
        self._publish = publish
        self._log = log
        self._lookup = lookup
        self._patience = patience
        self._grows = concurrency is None
        self._concurrency = _LEAST_SLOTS if concurrency is None else concurrency
        self._slots = asyncio.Semaphore(self._concurrency)  # serves in the order of asking
        self._slots_of_failing = asyncio.Semaphore(_share_of_failing(self._concurrency))
        self._entries: dict[str, _CheckedCandidate] = {}
        self._awaited: frozenset[str] | None = None  # keys without which nothing is published; None before any set
        self._published: tuple[Backend, ...] | None = None
        self._unstarted = False
        self._wake = asyncio.Event()

    def set(self, candidates: Iterable[Candidate]) -> None:
        """Replace the set of candidates. Called on the loop of `run`, before or while it runs.

        A candidate whose address is the same keeps the state of its equal checks, and its verdict until a check that
        is new to it has had its first outcome.
        """
        wanted = {candidate.backend.key: candidate for candidate in candidates}
        for key in self._entries.keys() - wanted.keys():
            self._entries.pop(key).drop()
        for key, candidate in wanted.items():
            entry = self._entries.get(key)
            if entry is None or entry.candidate.backend.address != candidate.backend.address:
                if entry is not None:
                    entry.drop()
                entry = self._entries[key] = _CheckedCandidate(key, candidate, self._log)
            entry.take(candidate)
        self._entries = dict(sorted(self._entries.items()))  # here, and not at each of very many outcomes
        if self._awaited is None:
            self._awaited = frozenset(wanted)
        self._unstarted = True
        self._wake.set()

    @property
    def status(self) -> Mapping[str, CandidateStatus]:
        """The status of each candidate by its key in the registry. Callable from any thread."""
        return {key: entry.status for key, entry in self._entries.copy().items()}

    async def run(self) -> None:
        """Check, and publish, until cancelled. Once only."""
        patience: asyncio.TimerHandle | None = None
        try:
            async with asyncio.TaskGroup() as tasks:
                while True:
                    await self._wake.wait()
                    self._wake.clear()
                    patience = patience or asyncio.get_running_loop().call_later(self._patience, self._wait_no_longer)
                    if self._unstarted:
                        self._unstarted = False
                        self._start(tasks)
                    self._publish_differences()
        finally:
            if patience is not None:
                patience.cancel()

    def _start(self, tasks: asyncio.TaskGroup) -> None:
        """Start the checks that do not run yet, spread over time rather than all at once."""
        self._make_room()
        new = [(entry, check) for entry in self._entries.values() for check in entry.not_running()]
        between = min(_BETWEEN_STARTS, _ALL_STARTED / max(len(new), 1))
        for place, (entry, check) in enumerate(new):
            entry.tasks[check] = tasks.create_task(self._follow(entry, check, place * between))

    def _make_room(self) -> None:
        """Add slots until each check has a slot. Slots are never removed."""
        checks = sum(len(entry.standings) for entry in self._entries.values())
        wanted = min(checks, descriptor_limit() // _DESCRIPTORS_PER_SLOT)
        if self._grows and wanted > self._concurrency:
            before, self._concurrency = self._concurrency, wanted
            for _ in range(wanted - before):
                self._slots.release()
            for _ in range(_share_of_failing(wanted) - _share_of_failing(before)):
                self._slots_of_failing.release()

    async def _follow(self, entry: "_CheckedCandidate", check: Check, delay: float) -> None:
        """Run a check of a candidate repeatedly, without overlaps."""
        loop = asyncio.get_running_loop()
        me = asyncio.current_task()
        probe = _prepared(check.probe, self._lookup)
        await asyncio.sleep(delay)
        while True:
            standing = entry.standings[check]
            async with self._lane(standing), self._slots:
                outcome = await _run_probe(probe, entry.candidate.backend, check.timeout)
            if entry.tasks.get(check) is not me:
                return  # its probe has outlived its cancellation; nobody wants to know any more
            first = not standing.proven
            entry.standings[check] = standing = standing.after(check, outcome, loop.time())
            if entry.update():
                self._wake.set()
            # What was started together drifts apart, from the second run on.
            least = 0.5 if first and standing.proven else 0.9
            await asyncio.sleep(standing.pause(check) * random.uniform(least, 1))  # noqa: S311 - no secret

    def _lane(self, standing: Standing) -> AbstractAsyncContextManager[None]:
        # What hangs until its timeout must not hold every slot.
        return self._slots_of_failing if standing.verdict is Verdict.FAILING else nullcontext()

    def _wait_no_longer(self) -> None:
        self._awaited = frozenset()
        self._wake.set()

    def _publish_differences(self) -> None:
        self._awaited = frozenset(
            key
            for key in self._awaited or ()
            if (entry := self._entries.get(key)) is not None and entry.status.verdict is None
        )
        if self._awaited:
            return
        backends = tuple(entry.status.backend for entry in self._entries.values() if entry.status.registered)
        if backends != self._published:
            self._published = backends
            self._publish(backends)


class _CheckedCandidate:
    """A candidate at an address, and the state of its checks."""

    def __init__(self, key: str, candidate: Candidate, log: FilteringBoundLogger) -> None:
        self.candidate = candidate
        self.standings: dict[Check, Standing] = {}
        self.tasks: dict[Check, asyncio.Task[None]] = {}
        self.status = CandidateStatus(candidate.backend, origin=_line(candidate.origin))
        self._key = key
        self._log = log
        self._inherited: Verdict | None = None
        self._proven = False
        self._told: set[str] = set()  # the reasons of the present verdict that are logged

    def take(self, candidate: Candidate) -> None:
        """Become this candidate, which has the same address."""
        checks = dict.fromkeys(candidate.checks)
        for check in self.standings.keys() - checks.keys():
            del self.standings[check]
            if (task := self.tasks.pop(check, None)) is not None:
                task.cancel()
        if checks.keys() - self.standings.keys():
            self._inherited = self.status.verdict
        self.standings = {check: self.standings.get(check) or _initial_standing(check) for check in checks}
        self.candidate = candidate
        self.update()

    def drop(self) -> None:
        """Stop the checks."""
        for task in self.tasks.values():
            task.cancel()
        self.tasks.clear()

    def not_running(self) -> list[Check]:
        """The checks that a task has yet to follow."""
        return [
            check for check in self.standings if check not in self.tasks and not isinstance(check.probe, ReportedProbe)
        ]

    def update(self) -> bool:
        """Compute the status from the outcomes so far. Returns whether it changed."""
        before, judgement = self.status, judge(self.standings, self._inherited)
        self._proven = self._proven or judgement.verdict in (Verdict.PASSING, Verdict.DRAINING)
        backend = as_registered(self.candidate.backend, judgement, proven=self._proven)
        self.status = CandidateStatus(
            backend or self.candidate.backend,
            judgement.verdict,
            judgement.detail,
            backend is not None,
            _line(self.candidate.origin),
            before.verdict_since if judgement.verdict is before.verdict else time.monotonic(),
        )
        if judgement.verdict is not None and self.standings:
            self._tell(judgement.verdict, judgement.detail, before.verdict)
        return self.status != before

    def _tell(self, verdict: Verdict, detail: str, before: Verdict | None) -> None:
        """Log a new verdict, and each new reason of a lasting verdict."""
        if verdict is not before:
            self._told.clear()
        elif verdict is Verdict.PASSING or detail in self._told or len(self._told) >= _MOST_REASONS:
            return
        self._told.add(detail)
        still = "still " if verdict is before else ""
        if verdict is Verdict.FAILING:
            # What has never passed is only starting, as far as anybody knows.
            tell = self._log.warning if self._proven else self._log.info
            tell(f"check {still}failing", key=self._key, reason=detail)
        elif verdict is Verdict.DRAINING:
            self._log.info(f"check {still}says draining", key=self._key, reason=detail)
        elif before is not None:  # else nothing is remarkable
            self._log.info("check passing", key=self._key)


def _share_of_failing(slots: int) -> int:
    return max(1, slots * 3 // 4)


def _initial_standing(check: Check) -> Standing:
    """A check's first standing; what was reported needs no run."""
    if not isinstance(check.probe, ReportedProbe):
        return Standing()
    return Standing().after(check, _valid_outcome(check.probe.outcome), 0.0)


def _prepared(probe: Probe, lookup: Lookup) -> Probe:
    """The probe with `lookup` for host names; if the probe cannot take it, one that fails for that reason."""
    try:
        return probe.with_lookup(lookup) if isinstance(probe, NamedProbe) else probe
    except BaseException as error:  # noqa: BLE001 - as for its run
        return ReportedProbe(_failure(describe(error)))


async def _run_probe(probe: Probe, backend: Backend, timeout: float) -> Outcome:
    """Run a probe once. Any exception is a failure with its reason."""
    limit = asyncio.timeout(timeout)
    try:
        async with limit:
            outcome = await probe(backend)
        return _valid_outcome(outcome)
    except TimeoutError as error:
        late = limit.expired()
        return _failure(f"no answer within {timeout:g} s" if late else describe(error))
    except asyncio.CancelledError:
        if is_being_cancelled():
            raise
        return _failure("the probe cancelled itself")
    except GeneratorExit:
        raise
    except BaseException as error:  # noqa: BLE001 - a plugin's probe may raise anything, SystemExit too
        return _failure(describe(error))


def _failure(reason: str) -> Outcome:
    return Outcome(Verdict.FAILING, _line(reason))


def _valid_outcome(outcome: Any) -> Outcome:
    """The outcome that a probe returned. Raises TypeError or ValueError if it breaks the contract."""
    if not isinstance(outcome, Outcome):
        raise TypeError(f"the probe returned {type(outcome).__name__}, not Outcome")
    weight = None if outcome.weight is None else min(max(int(outcome.weight), 0), 256)
    return replace(outcome, verdict=Verdict(outcome.verdict), detail=_line(outcome.detail), weight=weight)


def _line(text: str) -> str:
    line = printable(" ".join(text.split()))
    return line if len(line) <= _LONGEST_DETAIL else f"{line[: _LONGEST_DETAIL - 1]}…"
