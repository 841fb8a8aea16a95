"""The rate of log lines: floods are bounded, and a state that lasts is repeated at growing intervals."""

import re
import time

_DIGITS = re.compile(r"\d+")
_FIRST_REPEAT = 60.0
"""Seconds until the log line of a lasting failure is repeated; each further pause is longer."""
_LAST_REPEAT = 3600.0
"""Seconds between repetitions in the end: a log of a day still shows the failure."""
_MOST_REASONS = 20
"""Kinds of reasons that are told apart: a bound on memory if every reason differs."""


def kind(text: str) -> str:
    """Equal for texts that differ in numbers alone: ports, process ids, seconds."""
    return _DIGITS.sub("0", text)


class Budget:
    """A burst at once, and from then on a further use every so many seconds. Not thread-safe."""

    def __init__(self, burst: int, every: float) -> None:
        """Begin with the whole `burst`; one more is granted every `every` seconds, up to the burst."""
        self._burst = burst
        self._every = every
        self._left = float(burst)
        self._at = time.monotonic()

    def take(self) -> bool:
        """Return True if a further use is granted."""
        now = time.monotonic()
        self._left = min(self._burst, self._left + (now - self._at) / self._every)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True

    @property
    def spent(self) -> bool:
        """True if nothing is left now."""
        return self._left < 1


class Failures:
    """Failures in a row. Not thread-safe."""

    def __init__(self) -> None:
        """Begin with none."""
        self._count = 0
        self._kinds: set[str] = set()
        self._wait = _FIRST_REPEAT
        self._due = 0.0

    @property
    def count(self) -> int:
        """The number of failures since the last success."""
        return self._count

    def add(self, reason: str) -> bool:
        """Count a further failure; return whether it is worth a line.

        A new reason is; the same again is after a minute, and then each time after twice as long, up to an hour.
        """
        self._count += 1
        now = time.monotonic()
        new = kind(reason) not in self._kinds and len(self._kinds) < _MOST_REASONS
        if not new and now < self._due:
            return False
        self._wait = _FIRST_REPEAT if new else min(2 * self._wait, _LAST_REPEAT)
        self._due = now + self._wait
        self._kinds.add(kind(reason))
        return True

    def end(self) -> int:
        """Take note of a success; return how many failures there were before it."""
        count, self._count = self._count, 0
        self._kinds.clear()
        return count


def times(count: int) -> str:
    """The number of failures, in words."""
    return f"{count} failure{'' if count == 1 else 's'}"
