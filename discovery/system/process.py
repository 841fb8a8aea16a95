"""Handles of processes: a process is signalled and awaited through a pidfd, never by a process id alone."""

import asyncio
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from discovery.system.asyncio_tools import wait_for_event
from discovery.system.kernel import pidfd_open, pidfd_send_signal

_START_TIME = 19
"""Index of the start time among the fields of /proc/PID/stat that follow the program's name; see proc_pid_stat(5)."""


class ProcessHandle:
    """A handle of a process, child or not. A later process with the same id is neither awaited nor signalled.

    A handle belongs to the event loop that runs when the handle is made: every method is called on the thread of that
    loop. The owner closes the handle; closing leaves the process as it is.
    """

    def __init__(self, pid: int, *, started: int | None = None, on_exit: Callable[[], object] = lambda: None) -> None:
        """Open a handle of the process `pid`.

        `started` is the time at which the process started, in clock ticks since the machine booted (field 22 of
        proc_pid_stat(5)); None skips the comparison. The loop calls `on_exit` once, when the process has ended and
        before `ended` is set; for a child, `on_exit` is the place to wait for the child, which then returns at once.

        Raises ProcessLookupError if there is no such process, or if the process started at another time, and OSError
        if no descriptor can be opened or the start time cannot be read.
        """
        self.pid = pid
        """The process id."""
        self.ended = asyncio.Event()
        """Set when the process has ended, and when the handle is closed."""
        self._on_exit = on_exit
        self._descriptor = pidfd_open(pid)
        # After the descriptor is open, /proc/PID is this process's, or says that the process has ended.
        try:
            if started is not None and _start_time(pid) != started:
                raise ProcessLookupError(f"process {pid} has ended")
        except OSError:
            os.close(self._descriptor)
            raise
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._descriptor, self._end)

    @property
    def alive(self) -> bool:
        """True until the process has ended or the handle is closed."""
        return not self.ended.is_set()

    def send_signal(self, number: signal.Signals) -> None:
        """Send the signal `number`. Does nothing if the process has ended or the handle is closed.

        Raises PermissionError if the process belongs to another user.
        """
        if self.alive:
            with suppress(ProcessLookupError):
                pidfd_send_signal(self._descriptor, number)

    async def wait(self, timeout: float | None = None) -> bool:
        """Wait until the process has ended, for at most `timeout` seconds; None waits without a limit.

        Returns False if the process still runs. The timeout also holds in a task that is being cancelled.
        """
        return await wait_for_event(self.ended, timeout)

    def close(self) -> None:
        """Close the handle and leave the process as it is. Pending waits return as if the process had ended."""
        if self._descriptor >= 0:
            self._loop.remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1
        self.ended.set()

    def __enter__(self) -> Self:
        """Return the handle, which the end of the block closes."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the handle."""
        self.close()

    def _end(self) -> None:
        self._loop.remove_reader(self._descriptor)
        try:
            self._on_exit()
        finally:
            self.close()


def _start_time(pid: int) -> int | None:
    """Return the time at which the process `pid` started, in clock ticks; None if the process has ended.

    Raises OSError if the time cannot be read, as without a free descriptor.
    """
    try:
        # The program's name, in parentheses, may hold anything; the fields after the name do not.
        return int(Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(") ")[2].split()[_START_TIME])
    except (FileNotFoundError, ProcessLookupError):
        return None
