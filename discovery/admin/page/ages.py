"""Since when each backend is there, as far as the last changes tell."""

from collections.abc import Sequence
from itertools import islice
from typing import NamedTuple

from discovery.consuming.history import Change

MOST_AGES = 10_000
"""Backends whose beginning is kept, in 2 MiB; of the oldest others it is known that they are older."""


class Age(NamedTuple):
    """The instant since which a backend is there; `at_least` if it was there before. None: not known."""

    since: float | None
    at_least: bool = False


class Ages:
    """Folds changes into ages. Each change is looked at once."""

    def __init__(self) -> None:
        """Begin without a change."""
        self._number = 0
        self._since: dict[str, float] = {}
        self._listing: float | None = None
        self._has_gaps = False

    def take(self, changes: Sequence[Change]) -> None:
        """Take in those of `changes`, the oldest first, that are new."""
        fresh = [each for each in changes if each.number > self._number]
        if fresh and self._number and fresh[0].number > self._number + 1 and changes[0] is fresh[0]:
            self._has_gaps = True  # so many since the last look that some are forgotten
        for change in fresh:
            self._number = change.number
            if change.listing:
                self._since, self._listing, self._has_gaps = {}, change.arrived, False
                continue
            added = 0
            for each in change.named:
                if each.mark == "+":
                    self._since[each.key] = change.arrived
                    added += 1
                elif each.mark == "-":
                    self._since.pop(each.key, None)
            if added < change.added or len(change.named) < change.size:
                self._has_gaps = True
        if (more := len(self._since) - MOST_AGES) > 0:
            self._has_gaps = True
            for key in list(islice(self._since, more)):
                del self._since[key]

    def of(self, key: str) -> Age:
        """Return the age of the backend at `key`."""
        if (since := self._since.get(key)) is not None:
            return Age(since)
        return Age(None) if self._has_gaps else Age(self._listing, at_least=True)
