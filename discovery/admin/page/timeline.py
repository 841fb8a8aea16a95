"""The rows of the timeline: the last changes, and how long each consumer took for each. Pure."""

from collections.abc import Iterator
from typing import NamedTuple

from discovery.admin.page.facts import Facts
from discovery.admin.page.filters import Filters
from discovery.consuming.history import Change, Delay, Named, delay, is_forgotten


class Took(NamedTuple):
    """A consumer's delay for a change. `milliseconds` is None while it has not applied the change."""

    consumer: str
    milliseconds: float | None
    parts: str
    failures: int
    concerned: bool


class ChangeRow(NamedTuple):
    """A change. `more` is the number of backends and records that are not named."""

    number: int
    revision: int
    moment: float
    listing: bool
    counts: tuple[tuple[str, int], ...]
    named: tuple[Named, ...]
    more: int
    took: tuple[Took, ...]


class Timeline:
    """Makes the rows of changes, and keeps those that will not change any more."""

    def __init__(self) -> None:
        """Begin without a row."""
        self._rows: dict[tuple[int, tuple[str, ...]], ChangeRow] = {}

    def rows(self, facts: Facts, filters: Filters) -> tuple[ChangeRow, ...]:
        """Return the rows of the last changes that are wanted, the newest first."""
        names = tuple(facts.applies)
        wanted = [each for each in reversed(facts.changes) if _is_wanted(each, filters)][: filters.changes]
        return tuple(self._row(each, names, facts) for each in wanted)

    def forget(self, facts: Facts) -> None:
        """Drop the rows of changes that are not kept any more."""
        oldest = facts.changes[0].number if facts.changes else 0
        names = tuple(facts.applies)
        self._rows = {key: row for key, row in self._rows.items() if key[0] >= oldest and key[1] == names}

    def _row(self, change: Change, names: tuple[str, ...], facts: Facts) -> ChangeRow:
        known = self._rows.get((change.number, names))
        if known is not None:
            return known
        took = tuple(_took(change, facts))
        row = ChangeRow(
            number=change.number,
            revision=change.revision,
            moment=round(change.time, 3),
            listing=change.listing,
            counts=tuple(
                (word, count)
                for word, count in (
                    ("added", change.added),
                    ("updated", change.updated),
                    ("removed", change.removed),
                    ("rejected", change.rejected),
                )
                if count
            ),
            named=change.named,
            more=change.size - len(change.named),
            took=took,
        )
        if all(each.milliseconds is not None for each in took):
            self._rows[change.number, names] = row
        return row


def _is_wanted(change: Change, filters: Filters) -> bool:
    if filters.service and not change.concerns(filters.service):
        return False
    return not filters.q or any(filters.finds(each.key, each.text) for each in change.named)


def _took(change: Change, facts: Facts) -> Iterator[Took]:
    for name, applies in facts.applies.items():
        if not is_forgotten(change, applies.applies, applies.since):
            took = delay(change, applies.applies)
            if took is None:
                yield Took(name, None, "", 0, concerned=True)
            else:
                yield Took(name, round(1000 * took.total, 1), _parts(took), took.by.failures, took.by.concerned)


def _parts(took: Delay) -> str:
    parts = {"watch": took.watch, "queue": took.queue, "apply": took.apply, "verify": took.verify}
    return ", ".join(f"{name} {1000 * seconds:.1f}" for name, seconds in parts.items() if seconds is not None)
