"""Reports of drift and of an operator's changes: in the log, in `/api`, in the health and as metrics."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from structlog.typing import FilteringBoundLogger

from discovery import Sample
from discovery_haproxy.runtime_api.drift import Drift, DriftKind, OperatorChange
from discovery_haproxy.runtime_api.planner import ServerKey

_LOGGED = 20
"""Servers of one report that are logged singly, so that a large registry does not flood the log."""
_LISTED = 3
"""Servers in the line of the health; `inspect` has all of them."""


class DriftReports:
    """The drift so far, and the present changes of an operator, of the servers of a HAProxy."""

    def __init__(self, log: FilteringBoundLogger) -> None:
        """Start without a report."""
        self._log = log
        self._counts: Counter[DriftKind] = Counter()
        self._last: tuple[str, ...] = ()
        self._operator: Mapping[ServerKey, OperatorChange] = {}
        self._remaining: frozenset[str] = frozenset()

    @property
    def operator(self) -> Mapping[ServerKey, OperatorChange]:
        """The present changes of an operator, by server."""
        return self._operator

    def drifted(self, drifts: Sequence[Drift], remedy: str) -> None:
        """Report drift. `remedy` says how the drift is put right."""
        if not drifts:
            return
        self._counts.update(each.kind for each in drifts)
        self._last = tuple(map(str, drifts))
        self._each(self._log.warning, [f"drift: {each}" for each in drifts], remedy=remedy)

    def remains(self, drifts: frozenset[str]) -> None:
        """Report drift that a reload has not put right, if the drift is other drift than before. Empty for none."""
        before, self._remaining = self._remaining, drifts
        new = sorted(drifts - before)
        self._each(self._log.error, [f"drift: {each}" for each in new], remedy="none: a reload has not helped")

    def operated(self, changes: Mapping[ServerKey, OperatorChange]) -> None:
        """Report the changes of an operator that are kept, if they are others than before."""
        before, self._operator = self._operator, dict(changes)
        new = [
            f"the server {'/'.join(key)} was changed by an operator, which is kept: {change}"
            for key, change in changes.items()
            if before.get(key) != change
        ]
        ended = [f"the server {'/'.join(key)} is as configured again" for key in before.keys() - changes.keys()]
        self._each(self._log.warning, new)
        self._each(self._log.info, ended)

    def undone(self, changes: Mapping[ServerKey, OperatorChange]) -> None:
        """Report the changes of an operator that were undone."""
        told = [f"the server {'/'.join(key)} was changed by an operator: {change}" for key, change in changes.items()]
        self._each(self._log.warning, told, remedy="undone, as `operator_changes` says")

    @property
    def summary(self) -> str:
        """One line about drift that remains and the changes of an operator; empty if there are none."""
        operator = self._operator
        told = [f"{'/'.join(key)} ({change})" for key, change in list(operator.items())[:_LISTED]]
        more = f" and {len(operator) - _LISTED} more" if len(operator) > _LISTED else ""
        changed = f"changed by an operator: {', '.join(told)}{more}" if told else ""
        remaining = f"a reload has not put right: {min(self._remaining)}" if self._remaining else ""
        return "; ".join(filter(None, (remaining, changed)))

    def inspect(self) -> Mapping[str, Any]:
        """Return the changes of an operator and the last drift, as JSON."""
        operator = {"/".join(key): str(change) for key, change in self._operator.items()}
        return {"operator_changes": operator, "last_drift": list(self._last)}

    def metrics(self) -> Iterable[Sample]:
        """Return the number of differences by kind, and of servers that an operator has changed."""
        for kind in DriftKind:
            yield Sample(
                "drift",
                self._counts[kind],
                {"kind": kind.value},
                help="Differences of live servers, which are put right.",
            )
        yield Sample(
            "operator_changes",
            len(self._operator),
            kind="gauge",
            help="Servers with settings that an operator has made through a socket.",
        )

    @staticmethod
    def _each(log: Callable[..., object], lines: Sequence[str], **details: str) -> None:
        for line in lines[:_LOGGED]:
            log(line, **details)
        if len(lines) > _LOGGED:
            log(f"and {len(lines) - _LOGGED} more of these")
