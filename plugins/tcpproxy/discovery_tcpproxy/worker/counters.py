"""Counters of a listener, updated when a connection ends and read for a report."""

from collections import Counter
from typing import Any


class ListenerCounters:
    """Counters of a listener since the worker started."""

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
        """Create counters with the value zero."""
        self.total = 0  # connections accepted
        self.connected = 0  # connections established to backends
        self.connect_seconds = 0.0  # total duration of these connection attempts
        self.connect_failures = 0
        self.retries = 0
        self.held = 0  # clients that had to wait for a backend
        self.rejected: Counter[str] = Counter()
        self.received = 0  # bytes from clients, of connections that have ended
        self.sent = 0  # bytes to clients, of connections that have ended

    def as_dict(self) -> dict[str, Any]:
        """Return the counters by name, as the report has them."""
        return {name: getattr(self, name) for name in self.__slots__}
