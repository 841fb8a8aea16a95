"""Forwarding of HAProxy's log to the daemon's log, through a named pipe in the run directory.

HAProxy holds both ends of the pipe open, so that HAProxy neither blocks nor ends on a write after the daemon has ended.
A full pipe drops lines. The daemon that adopts HAProxy reads on.
"""

import asyncio
import os
import re
import stat
from collections import deque
from contextlib import suppress
from pathlib import Path

from structlog.typing import FilteringBoundLogger

_BRACKETED = re.compile(r"\[(ALERT|WARNING|NOTICE)\] ")
_OLD_WORKER = re.compile(r"Proxy \S+ stopped ")
_PROBLEM = re.compile(r" is DOWN\b| has no server available")
_LOST_TARGET = re.compile(r"\[ALERT\] .*failed in logger")
"""Told once by each worker that cannot reach a log target; the lines of that target are lost, and not counted."""
_REQUEST = re.compile(r" \[\d\d/[A-Z][a-z]{2}/\d{4}:[\d:.]+\] ")
_READ_BYTES = 1 << 16
"""Bytes of one read, and of the longest line: the capacity of a pipe."""
_TAIL_LINES = 200
"""Lines of the log that are kept: HAProxy's messages of one failed start or reload."""


class LogPipe:
    """Forwards HAProxy's lines to a log. `tail` holds the last lines. Belongs to one event loop."""

    def __init__(self, path: Path, log: FilteringBoundLogger) -> None:
        """Store the arguments; `open` creates the pipe."""
        self.tail: deque[str] = deque(maxlen=_TAIL_LINES)
        self._path = path
        self._log = log
        self._descriptor = -1
        self._rest = b""

    def open(self) -> None:
        """Create or find the pipe and begin to read. Raises OSError."""
        with suppress(FileNotFoundError):
            if not stat.S_ISFIFO(self._path.lstat().st_mode):
                self._path.unlink()
        with suppress(FileExistsError):
            os.mkfifo(self._path, 0o600)
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
        asyncio.get_running_loop().add_reader(self._descriptor, self.drain)

    def is_there(self) -> bool:
        """Report whether the open pipe is still the file at the pipe's path."""
        try:
            return os.path.samestat(self._path.lstat(), os.fstat(self._descriptor))
        except OSError:
            return False

    def fileno(self) -> int:
        """Return the file descriptor that HAProxy writes to."""
        return self._descriptor

    def drain(self) -> None:
        """Forward the lines in the pipe. Do nothing if the pipe is not open."""
        if self._descriptor < 0:
            return
        with suppress(BlockingIOError):
            *lines, self._rest = (self._rest + os.read(self._descriptor, _READ_BYTES)).split(b"\n")
            for line in lines:
                self._forward(line.decode(errors="replace").rstrip())
            if len(self._rest) > _READ_BYTES:
                self._rest = b""

    def close(self) -> None:
        """Forward the remaining lines and close the pipe."""
        if self._descriptor >= 0:
            self.drain()
            asyncio.get_running_loop().remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1

    def _forward(self, line: str) -> None:
        if not line:
            return
        self.tail.append(line)
        if _LOST_TARGET.match(line):
            self._log.warning("haproxy", line=line)
        elif _BRACKETED.match(line) or _OLD_WORKER.match(line):
            # HAProxy repeats these lines through its log, or they are about a reload, which the plugin logs itself.
            self._log.debug("haproxy", line=line)
        elif _PROBLEM.search(line):
            self._log.warning("haproxy", line=line)
        else:
            self._log.info("haproxy", line=line, every=_REQUEST.search(line) is not None)
