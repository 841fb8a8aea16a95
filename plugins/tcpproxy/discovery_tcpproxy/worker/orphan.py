"""Orphan mode of a worker, while there is no daemon: periodic log lines, and the end at SIGTERM."""

import json
import os
import select
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime

from discovery_tcpproxy.worker.loop import Loop, Timer

LOG_INTERVAL = 60.0
"""Seconds between two log lines of a worker without a daemon: visible in any extract of a log, and no flood."""
_SIGNAL_VALIDITY = 90.0
"""Seconds for which a SIGTERM ends the worker if the daemon ends as well: systemd kills a unit after that time."""
_STDERR = 2
"""The descriptor of standard error, by POSIX."""


class OrphanMode:
    """Log lines and the handling of SIGTERM of a worker that has no daemon."""

    def __init__(
        self,
        loop: Loop,
        stderr: int,
        state: Callable[[], str],
        stop: Callable[[str], None],
        interval: float = LOG_INTERVAL,
    ) -> None:
        """Prepare; `begin` starts the mode.

        Log lines go to the descriptor `stderr`, that of the last daemon: the standard error of the worker is a pipe
        that no process reads any more. `state` returns a description of what the worker does. `stop` is called, with
        the reason, when the worker has to end. A line is logged every `interval` seconds.
        """
        self._loop = loop
        self._stderr = stderr
        self._format = os.environ.get("DISCOVERY_LOG_FORMAT")
        self._state = state
        self._stop = stop
        self._interval = interval
        self._since: float | None = None
        self._timer: Timer | None = None
        self._signalled_at: float | None = None

    def begin(self) -> None:
        """Start the mode: the daemon has ended."""
        with suppress(OSError):
            os.dup2(self._stderr, _STDERR)  # a traceback of the interpreter goes there as well
        self._since = self._loop.now
        if self._signalled_at is not None and self._loop.now - self._signalled_at < _SIGNAL_VALIDITY:
            self._stop("SIGTERM")
        self._log_state()

    def log_to(self, stderr: int, log_format: str) -> None:
        """Log to a copy of the descriptor `stderr`, that of the present daemon, in its format."""
        os.dup2(stderr, self._stderr, inheritable=False)
        os.dup2(stderr, _STDERR)
        self._format = log_format

    def end(self) -> None:
        """End the mode: there is a daemon again."""
        self._since = self._signalled_at = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def signalled(self) -> None:
        """Handle a SIGTERM. With a daemon the worker goes on, since supervisors signal all processes of a unit."""
        self._signalled_at = self._loop.now
        if self._since is not None:
            self._stop("SIGTERM")

    def _log_state(self) -> None:
        if self._since is not None:
            self._log(f"the daemon has gone; {self._state()}", seconds=round(self._loop.now - self._since))
            self._timer = self._loop.call_later(self._interval, self._log_state)

    def _log(self, event: str, **fields: object) -> None:
        """Write a line in the log format of the daemon."""
        now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
        fields = {**fields, "pid": os.getpid()}
        if self._format == "json":
            line = json.dumps({"event": event, "level": "warning", "timestamp": now, **fields})
        else:
            line = " ".join((now, "[warning]", event, *(f"{key}={value}" for key, value in fields.items())))
        waiting = select.poll()
        waiting.register(self._stderr, select.POLLOUT)
        with suppress(OSError):
            # A reader that does not read must not block the worker: a ready pipe takes PIPE_BUF bytes without blocking.
            if any(events & select.POLLOUT for _, events in waiting.poll(0)):
                os.write(self._stderr, line.encode(errors="replace")[: select.PIPE_BUF - 1] + b"\n")
