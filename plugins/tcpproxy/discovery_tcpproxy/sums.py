"""Sums of what workers report: nested mappings of numbers. Pure."""

from collections.abc import Mapping
from typing import Any

Figures = Mapping[str, Any]

_GAUGES = ("open", "holding")
"""The figures of the present, which end with the worker; all others only grow."""


def add(one: Figures, other: Figures) -> Figures:
    """The sums, key by key; of what is no number the latter's."""
    total: dict[str, Any] = dict(one)
    for key, value in other.items():
        before = total.get(key)
        if isinstance(value, Mapping):
            total[key] = add(before if isinstance(before, Mapping) else {}, value)
        elif isinstance(value, int | float) and isinstance(before, int | float):
            total[key] = before + value
        else:
            total[key] = value
    return total


def left_of(report: Figures) -> Figures:
    """The part of a report that remains after the worker's end: the counters."""
    listeners = {}
    for name, listener in report.get("listeners", {}).items():
        backends = {id_: _counters(backend) for id_, backend in listener.get("backends", {}).items()}
        rejected = dict(listener.get("rejected", {}))
        listeners[name] = {**_counters(listener), "rejected": rejected, "backends": backends}
    return {**_counters(report), "listeners": listeners}


def _counters(figures: Figures) -> dict[str, int | float]:
    return {key: value for key, value in figures.items() if isinstance(value, int | float) and key not in _GAUGES}
