"""Child processes whose standard error is read line by line."""

import asyncio
import os
import subprocess
from collections.abc import Callable, Collection, Mapping, Sequence

from discovery.toolkit import ProcessHandle, signal_name

_LONGEST_LINE = 1 << 14
"""Bytes after which a line of standard error is cut, so that a line without an end takes no memory."""


_READ_SIZE = 1 << 16
"""Bytes of one read: the capacity of a pipe in Linux."""


class ChildProcess(ProcessHandle):
    """Child process whose standard error is read until the process has ended."""

    def __init__(
        self,
        command: Sequence[str],
        descriptors: Collection[int],
        environment: Mapping[str, str],
        on_line: Callable[[str], None],
    ) -> None:
        """Start `command` with these open descriptors; `on_line` is called with each line. Raises OSError."""
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            pass_fds=descriptors,
            env=environment,
            start_new_session=True,
        )
        super().__init__(self._process.pid, on_exit=self._finish)
        self._on_line = on_line
        self._line = b""
        assert self._process.stderr is not None  # noqa: S101 - for the type checker
        self._stderr = self._process.stderr
        os.set_blocking(self._stderr.fileno(), False)
        self._events = asyncio.get_running_loop()
        self._events.add_reader(self._stderr.fileno(), self._read)

    @property
    def outcome(self) -> str | None:
        """Exit code or signal in words; None while the process runs."""
        code = self._process.returncode
        if code is None:
            return None
        return f"killed by {signal_name(-code)}" if code < 0 else f"exit code {code}"

    def _read(self) -> None:
        try:
            data = os.read(self._stderr.fileno(), _READ_SIZE)
        except BlockingIOError:
            return
        *lines, self._line = (self._line + data).split(b"\n")
        if not data or len(self._line) > _LONGEST_LINE:
            lines, self._line = [*lines, self._line], b""
        for line in lines:
            if text := line.decode(errors="replace").rstrip():
                self._on_line(text)
        if not data:
            self._close()

    def _close(self) -> None:
        if not self._stderr.closed:
            self._events.remove_reader(self._stderr.fileno())
            self._stderr.close()

    def _finish(self) -> None:
        self._process.wait()
        if not self._stderr.closed:
            self._read()  # the lines before the end
        self._close()
