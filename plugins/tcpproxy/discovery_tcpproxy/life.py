"""A worker as a process: awaited, and ended by force. By a pidfd, so that no other that has its pid later is meant."""

import asyncio
import os
import signal
import subprocess
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress

from discovery.system.kernel import pidfd_open, pidfd_send_signal

_LONGEST_LINE = 1 << 14


class Life:
    """Of a process that is not our child, as far as it goes."""

    def __init__(self, pid: int) -> None:
        """Watch it, on the running loop. Raises ProcessLookupError if there is none."""
        self.pid = pid
        self.ended = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._descriptor = pidfd_open(pid)
        self._loop.add_reader(self._descriptor, self._end)

    @property
    def status(self) -> str:
        """How the process ended, in words."""
        return "it has ended" if self.ended.is_set() else "it runs"

    def kill(self) -> None:
        """End it at once."""
        if not self.ended.is_set():
            with suppress(ProcessLookupError):
                pidfd_send_signal(self._descriptor, signal.SIGKILL)

    def forget(self) -> None:
        """Watch it no more, and leave it as it is."""
        if not self.ended.is_set():
            self._loop.remove_reader(self._descriptor)
            os.close(self._descriptor)
            self.ended.set()

    def _end(self) -> None:
        self.forget()


class Child(Life):
    """Of a child of ours, whose standard error is read as well."""

    def __init__(
        self,
        command: Sequence[str],
        descriptors: Collection[int],
        environment: Mapping[str, str],
        said: Callable[[str], None],
    ) -> None:
        """Start it with these descriptors. `said` is told each line. Raises OSError."""
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            pass_fds=descriptors,
            env=environment,
            start_new_session=True,
        )
        super().__init__(self._process.pid)
        self._said = said
        self._line = b""
        assert self._process.stderr is not None  # noqa: S101 - for the type checker
        self._stderr = self._process.stderr
        os.set_blocking(self._stderr.fileno(), False)
        self._loop.add_reader(self._stderr.fileno(), self._read)

    @property
    def status(self) -> str:
        """See `Life`."""
        code = self._process.returncode
        if code is None:
            return super().status
        return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"

    def _read(self) -> None:
        try:
            data = os.read(self._stderr.fileno(), 1 << 16)
        except BlockingIOError:
            return
        *lines, self._line = (self._line + data).split(b"\n")
        if not data or len(self._line) > _LONGEST_LINE:
            lines, self._line = [*lines, self._line], b""
        for line in lines:
            if text := line.decode(errors="replace").rstrip():
                self._said(text)
        if not data:
            self._close()

    def _close(self) -> None:
        if not self._stderr.closed:
            self._loop.remove_reader(self._stderr.fileno())
            self._stderr.close()

    def _end(self) -> None:
        self._process.wait()
        if not self._stderr.closed:
            self._read()  # its last words
        self._close()
        super()._end()
