"""A worker without a daemon: it logs this once a minute, and ends at SIGTERM."""

import json
import os
import select
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime

from discovery_tcpproxy.worker.loop import Loop, Timer

SAY_EVERY = 60.0
_SIGNAL_COUNTS = 90.0
"""Seconds in which the end of the daemon may follow a SIGTERM that both were sent: systemd kills after so many."""
_STDERR = 2


class Orphan:
    """Watches over the time without a daemon. `stop` is called, with the reason, when the worker is to end."""

    def __init__(self, loop: Loop, stderr: int, state: Callable[[], str], stop: Callable[[str], None]) -> None:
        """Lines go to the descriptor `stderr`, the first daemon's: our own is a pipe that nobody reads any more.

        `state` tells in words what the worker does meanwhile.
        """
        self._loop = loop
        self._stderr = stderr
        self._format = os.environ.get("DISCOVERY_LOG_FORMAT")
        self._state = state
        self._stop = stop
        self._since: float | None = None
        self._timer: Timer | None = None
        self._signalled: float | None = None

    def begin(self) -> None:
        """There is no daemon."""
        with suppress(OSError):
            os.dup2(self._stderr, _STDERR)  # last words go there as well
        self._since = self._loop.now
        if self._signalled is not None and self._loop.now - self._signalled < _SIGNAL_COUNTS:
            self._stop("SIGTERM")
        self._say()

    def speak_as(self, stderr: int, log_format: str) -> None:
        """Log from now on where the present daemon does, and as it does: a copy is made of the descriptor."""
        os.dup2(stderr, self._stderr, inheritable=False)
        os.dup2(stderr, _STDERR)
        self._format = log_format

    def end(self) -> None:
        """There is a daemon again."""
        self._since = self._signalled = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def signalled(self) -> None:
        """A SIGTERM has come: of a supervisor that sends it to all, if there is a daemon, which then tells us."""
        self._signalled = self._loop.now
        if self._since is not None:
            self._stop("SIGTERM")

    def _say(self) -> None:
        if self._since is not None:
            self._log(f"the daemon has gone; {self._state()}", seconds=round(self._loop.now - self._since))
            self._timer = self._loop.call_later(SAY_EVERY, self._say)

    def _log(self, event: str, **fields: object) -> None:
        """Write a line, in the daemon's format."""
        now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
        fields = {**fields, "pid": os.getpid()}
        if self._format == "json":
            line = json.dumps({"event": event, "level": "warning", "timestamp": now, **fields})
        else:
            line = " ".join((now, "[warning]", event, *(f"{key}={value}" for key, value in fields.items())))
        waiting = select.poll()
        waiting.register(self._stderr, select.POLLOUT)
        with suppress(OSError):
            # A reader that has stopped must not stop us: a pipe that is ready takes a line of this length whole.
            if any(events & select.POLLOUT for _, events in waiting.poll(0)):
                os.write(self._stderr, line.encode(errors="replace")[: select.PIPE_BUF - 1] + b"\n")
