"""The counters of a listener: plain numbers, summed up when a connection ends, and for a report."""

from collections import Counter
from typing import Any


class Figures:
    """Of one listener, since the worker started."""

    __slots__ = (
        "connect_failures",
        "connect_seconds",
        "connected",
        "held",
        "received",
        "rejected",
        "retries",
        "sent",
        "total",
    )

    def __init__(self) -> None:
        """Nothing has happened yet."""
        self.total = 0  # accepted, whatever became of them
        self.connected = 0  # to a backend
        self.connect_seconds = 0.0  # of these together
        self.connect_failures = 0
        self.retries = 0
        self.held = 0  # had to wait for a backend
        self.rejected: Counter[str] = Counter()
        self.received = 0  # bytes, from clients; of connections that have ended
        self.sent = 0  # bytes, to clients; likewise

    def told(self) -> dict[str, Any]:
        """As it goes over the wire."""
        return {name: getattr(self, name) for name in self.__slots__}
