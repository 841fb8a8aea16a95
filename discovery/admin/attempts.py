"""Attempts with wrong credentials: how many of a client, and how late each is answered."""

from collections import deque

ATTEMPTS = 10
"""Wrong attempts of a client within a minute, after which it has to wait."""
MINUTE = 60.0
"""Seconds for which a wrong attempt is remembered."""
DELAY = 0.5
"""Seconds after which a wrong attempt is answered."""
_MOST_CLIENTS = 1000
"""Clients that are remembered: a bound on memory, and far more than the connections of a minute."""


class Attempts:
    """The wrong attempts of the last minute, by client."""

    def __init__(self) -> None:
        """Begin with none."""
        self._failed: dict[str, deque[float]] = {}  # the client that failed longest ago first

    def are_too_many(self, client: str, now: float) -> bool:
        """Return True if the client has to wait before another attempt counts."""
        failed = self._failed.get(client)
        if failed is None:
            return False
        while failed and now - failed[0] > MINUTE:
            failed.popleft()
        if not failed:
            del self._failed[client]
        return len(failed) >= ATTEMPTS

    def fail(self, client: str, now: float) -> float | None:
        """Count a wrong attempt; return the seconds after which it is to be answered, or None if there are too many.

        An attempt beyond the limit is not counted: who goes on trying is let in again after a minute.
        """
        if self.are_too_many(client, now):
            return None
        failed = self._failed.pop(client, None) or deque()
        failed.append(now)
        self._failed[client] = failed
        if len(self._failed) > _MOST_CLIENTS:
            del self._failed[next(iter(self._failed))]
        return DELAY
