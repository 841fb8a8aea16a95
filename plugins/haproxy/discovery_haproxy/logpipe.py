"""The way of HAProxy's log to ours: a named pipe in the run directory.

HAProxy holds both ends of the pipe open, so that a HAProxy that outlives this process neither blocks nor dies on a
write. What does not fit is dropped. The daemon that takes HAProxy over reads on.
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
_BAD_NEWS = re.compile(r" is DOWN\b| has no server available")
_REQUEST = re.compile(r" \[\d\d/[A-Z][a-z]{2}/\d{4}:[\d:.]+\] ")
_CHUNK = 1 << 16


class LogPipe:
    """Forwards the lines that HAProxy writes; `tail` keeps the last of them."""

    def __init__(self, path: Path, log: FilteringBoundLogger) -> None:
        """Prepare; `open` does the work."""
        self.tail: deque[str] = deque(maxlen=200)
        self._path = path
        self._log = log
        self._descriptor = -1
        self._rest = b""

    def open(self) -> None:
        """Make or find the pipe and begin to read. Raises OSError."""
        with suppress(FileNotFoundError):
            if not stat.S_ISFIFO(self._path.lstat().st_mode):
                self._path.unlink()
        with suppress(FileExistsError):
            os.mkfifo(self._path, 0o600)
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
        asyncio.get_running_loop().add_reader(self._descriptor, self.drain)

    def is_there(self) -> bool:
        """Whether the pipe is still found at its path."""
        try:
            return os.path.samestat(self._path.lstat(), os.fstat(self._descriptor))
        except OSError:
            return False

    def fileno(self) -> int:
        """What a HAProxy is to write to."""
        return self._descriptor

    def drain(self) -> None:
        """Forward what is there. Nothing is where the pipe could not be made again."""
        if self._descriptor < 0:
            return
        with suppress(BlockingIOError):
            *lines, self._rest = (self._rest + os.read(self._descriptor, _CHUNK)).split(b"\n")
            for line in lines:
                self._forward(line.decode(errors="replace").rstrip())
            if len(self._rest) > _CHUNK:
                self._rest = b""

    def close(self) -> None:
        """Forward what is left and stop."""
        if self._descriptor >= 0:
            self.drain()
            asyncio.get_running_loop().remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1

    def _forward(self, line: str) -> None:
        if not line:
            return
        self.tail.append(line)
        if _BRACKETED.match(line) or _OLD_WORKER.match(line):
            # Said once more through HAProxy's own log, or of a reload, of which we tell ourselves.
            self._log.debug("haproxy", line=line)
        elif _BAD_NEWS.search(line):
            self._log.warning("haproxy", line=line)
        else:
            self._log.info("haproxy", line=line, every=_REQUEST.search(line) is not None)
