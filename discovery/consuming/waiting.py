"""The changes that a consumer has been offered and has not applied: put by the core, taken by the consumer's thread."""

import threading
from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

from discovery.consuming.history import MOST_CHANGES, Change


class Waiting(NamedTuple):
    """A change that waits, and how many it stands for: itself, and those after it for which there was no room."""

    change: Change
    stands_for: int = 1


class WaitingChanges:
    """The changes that wait, in bounded number, each until it is taken once. From any thread.

    Of a consumer that is behind by more than `most` changes the later ones are counted with the last that is kept:
    how long they have waited is then overstated, and none is lost.
    """

    def __init__(self, most: int = MOST_CHANGES) -> None:
        """Begin with none."""
        self._most = most
        self._lock = threading.Lock()
        self._changes: deque[Waiting] = deque()

    def put(self, changes: Iterable[Change]) -> None:
        """Add changes, the oldest first. A first listing is none: nobody knows when its records were put."""
        with self._lock:
            for each in changes:
                if each.listing:
                    continue
                if len(self._changes) < self._most:
                    self._changes.append(Waiting(each))
                else:
                    last = self._changes[-1]
                    self._changes[-1] = last._replace(stands_for=last.stands_for + 1)

    def take(self, number: int) -> list[Waiting]:
        """Remove and return the changes up to the step `number`, the oldest first."""
        taken: list[Waiting] = []
        with self._lock:
            while self._changes and self._changes[0].change.number <= number:
                taken.append(self._changes.popleft())
        return taken
