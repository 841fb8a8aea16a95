"""Latest wins: one value in place of all those that were offered before, and how long the oldest of them has waited."""

import threading
import time
from typing import Generic, TypeVar

T = TypeVar("T")


class Latest(Generic[T]):
    """The last object that any thread offered, for a single thread that takes the object.

    Instants are `time.monotonic()`.
    """

    def __init__(self) -> None:
        """Nothing is offered yet."""
        self._lock = threading.Lock()
        self._offered: T | None = None
        self._offered_since: float | None = None  # the oldest offer since the last `take`
        self._taken_since: float | None = None  # the oldest offer that was taken and is not settled

    @property
    def value(self) -> T | None:
        """The last object offered, taken or not; None before the first offer."""
        return self._offered

    @property
    def behind_since(self) -> float | None:
        """When the oldest offer that is not settled was made; None if everything is settled."""
        with self._lock:
            return self._offered_since if self._taken_since is None else self._taken_since

    def offer(self, value: T) -> None:
        """Put `value` in place of what waits."""
        with self._lock:
            self._offered = value
            self._offered_since = self._offered_since or time.monotonic()

    def take(self) -> T | None:
        """Return the last object offered. It is unsettled until `settle`, also if it is taken again."""
        with self._lock:
            self._taken_since = self._taken_since or self._offered_since
            self._offered_since = None
            return self._offered

    def settle(self) -> None:
        """Note that the last object taken has been dealt with, and with it all that was offered before."""
        with self._lock:
            self._taken_since = None

    def reopen(self) -> None:
        """Require that the last object is dealt with again, from now on."""
        with self._lock:
            self._taken_since = None
            self._offered_since = None if self._offered is None else time.monotonic()
