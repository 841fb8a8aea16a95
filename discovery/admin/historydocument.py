"""The JSON form of the history: the last changes, and how long each consumer took for each. Pure."""

import time
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from discovery.consuming.history import MOST_CHANGES, AppliedHistory, Change, Delay, delay, is_forgotten


def history_document(
    changes: Iterable[Change],
    consumers: Mapping[str, AppliedHistory],
    *,
    service: str | None = None,
    limit: int = MOST_CHANGES,
) -> dict[str, Any]:
    """Return the last `limit` of `changes` that may concern `service`, the newest first; None: of any service."""
    concerned = [each for each in changes if service is None or each.concerns(service)]
    kept = concerned[::-1][:limit]
    applies = {name: (history.applies, history.since) for name, history in consumers.items()}
    now = time.monotonic()
    return {
        "most": MOST_CHANGES,
        "changes": [
            {**_change(each), "consumers": dict(_consumers(each, applies)), "age_seconds": round(now - each.arrived, 3)}
            for each in kept
        ],
    }


def _consumers(change: Change, applies: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any] | None]]:
    """Yield the delay of each consumer that is known to have or not to have applied the change; None: not yet."""
    for name, (entries, since) in applies.items():
        if not is_forgotten(change, entries, since):
            took = delay(change, entries)
            yield name, None if took is None else _delay(took)


def _change(change: Change) -> dict[str, Any]:
    return {
        "number": change.number,
        "revision": change.revision,
        "time": datetime.fromtimestamp(change.time, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "listing": change.listing,
        "added": change.added,
        "updated": change.updated,
        "removed": change.removed,
        "rejected": change.rejected,
        "changes": [each._asdict() for each in change.named],
        "more": change.size - len(change.named),
    }


def _delay(took: Delay) -> dict[str, Any]:
    return {
        "applied_ms": _milliseconds(took.total),
        "watch_ms": _milliseconds(took.watch),
        "queue_ms": _milliseconds(took.queue),
        "apply_ms": _milliseconds(took.apply),
        "verify_ms": None if took.verify is None else _milliseconds(took.verify),
        "revision": took.by.revision,
        "failures": took.by.failures,
        "concerned": took.by.concerned,
    }


def _milliseconds(seconds: float) -> float:
    return round(1000 * seconds, 3)
