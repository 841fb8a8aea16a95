"""Lines that HAProxy dropped because the reader of its log was too slow: counted over all workers, and reported."""

import time
from contextlib import suppress

from structlog.typing import FilteringBoundLogger

from discovery_haproxy.program.control_socket import ControlError, ControlSocket

_WARN_SECONDS = 60.0
"""Seconds between two warnings: lines may be dropped all day, and each health check counts them."""


class LogDrops:
    """The number of dropped lines. HAProxy counts from zero in each worker."""

    def __init__(self, log: FilteringBoundLogger) -> None:
        """Start at zero."""
        self._log = log
        self._by_worker: dict[int, int] = {}
        self._ended = 0
        self._reported = 0
        self._warned_at = -_WARN_SECONDS

    @property
    def total(self) -> int:
        """Number of dropped lines of all workers so far. May be read on any thread."""
        return self._ended + sum(self._by_worker.values())

    async def count(self, control: ControlSocket) -> None:
        """Ask HAProxy for the counts of its workers. Keep the last counts if HAProxy does not answer."""
        with suppress(ControlError):
            self.update(await control.dropped_log_lines())

    def update(self, dropped: dict[int, int]) -> None:
        """Accept the present counts by worker pid. A worker that is missing has ended; its last count stays."""
        # A new dictionary, so that another thread never meets a half-changed one.
        ended = self._ended + sum(count for pid, count in self._by_worker.items() if pid not in dropped)
        self._by_worker, self._ended = dict(dropped), ended

    def report(self, way_out: str) -> None:
        """Log a warning if lines were dropped since the last warning, at most once a minute."""
        count = self.total - self._reported
        now = time.monotonic()
        if count <= 0 or now - self._warned_at < _WARN_SECONDS:
            return
        self._reported, self._warned_at = self.total, now
        self._log.warning(f"HAProxy has dropped lines of its log: {way_out}", count=count)
