"""Sums of the reports of workers, which are nested mappings of numbers. Pure."""

from collections.abc import Mapping
from typing import Any

Figures = Mapping[str, Any]

_GAUGES = ("open", "holding")
"""Names of gauges, which end with the worker; all other figures are counters."""


def add(one: Figures, other: Figures) -> Figures:
    """Return the sums, key by key. A value that is no number is taken from `other`."""
    total: dict[str, Any] = dict(one)
    for key, value in other.items():
        before = total.get(key)
        if isinstance(value, Mapping):
            total[key] = add(before if isinstance(before, Mapping) else {}, value)
        elif before is not None and key == "state" and value == "usable":
            pass  # one worker's report that a backend fails counts more than another's that has not tried it
        elif isinstance(value, int | float) and isinstance(before, int | float):
            total[key] = before + value
        else:
            total[key] = value
    return total


def counters_of(report: Figures) -> Figures:
    """Return the counters of a report, which remain valid after the end of the worker."""
    listeners = {}
    for name, listener in report.get("listeners", {}).items():
        backends = {id_: _counters(backend) for id_, backend in listener.get("backends", {}).items()}
        rejected = dict(listener.get("rejected", {}))
        listeners[name] = {**_counters(listener), "rejected": rejected, "backends": backends}
    return {**_counters(report), "listeners": listeners}


def _counters(figures: Figures) -> dict[str, int | float]:
    return {key: value for key, value in figures.items() if isinstance(value, int | float) and key not in _GAUGES}
