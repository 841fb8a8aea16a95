"""Old workers, which serve their last connections after a reload: counted, with a warning if there are many."""

from structlog.typing import FilteringBoundLogger

from discovery import Sample
from discovery_haproxy.program.control_socket import Processes

_MANY = 5
"""Number of old workers above which a warning is due: each keeps memory and connections."""


class OldWorkers:
    """The number of old workers, as HAProxy's master told last."""

    def __init__(self, log: FilteringBoundLogger) -> None:
        """Start at zero."""
        self._log = log
        self._count = 0

    @property
    def detail(self) -> str:
        """One line for a person; empty unless there are many old workers."""
        if self._count <= _MANY:
            return ""
        return (
            f"{self._count} old workers still serve connections; a shorter hard_stop_after ends them, and"
            " max_old_workers limits their number"
        )

    @property
    def sample(self) -> Sample:
        """The metric. May be read on any thread."""
        help_ = "Workers that serve their last connections after a reload"
        return Sample("old_workers", self._count, kind="gauge", help=help_)

    def update(self, processes: Processes) -> None:
        """Accept the present processes. Log a warning if there are many old workers and there were not many before."""
        before, self._count = self._count, len(processes.old)
        if before <= _MANY < self._count:
            self._log.warning(self.detail)
