"""Processes that may not be our children: found in /proc, signalled and awaited through pidfds, never by pid alone."""

import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from discovery.system.kernel import P_PIDFD, pidfd_open, pidfd_send_signal

_PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Process:
    """A process at one moment."""

    pid: int
    parent: int
    started: int
    """In clock ticks since the machine booted: with the pid it tells processes apart."""
    owner: int
    argv: tuple[str, ...]
    program: str | None
    """Its executable; None if that was not to be seen."""


def find(argument: str) -> list[Process]:
    """The processes with `argument` on their command line: this user's, and their children of whatever user.

    It begins with a path; one that leads to the same place through other symbolic links, as /var/run does, is equal.
    """
    name, place = Path(argument).name, os.path.realpath(argument)
    found = map(look, _those_with(os.fsencode(name)))
    family = [
        process
        for process in found
        if process is not None and any(each.endswith(name) and os.path.realpath(each) == place for each in process.argv)
    ]
    ours = {process.pid for process in family if process.owner == os.geteuid()}
    return [process for process in family if process.pid in ours or process.parent in ours]


def _those_with(words: bytes) -> Iterator[int]:
    """The pids with these bytes on their command line. Nothing else is read of the many others."""
    for directory in _PROC.glob("[0-9]*"):
        with suppress(OSError):
            if words in (directory / "cmdline").read_bytes():
                yield int(directory.name)


def masters(family: list[Process]) -> list[Process]:
    """Those whose parent is none of them."""
    pids = {process.pid for process in family}
    return [process for process in family if process.parent not in pids]


def look(pid: int) -> Process | None:
    """The process `pid`; None if there is none, or it has ended and only waits for its parent."""
    place = _PROC / str(pid)
    try:
        argv = tuple((place / "cmdline").read_bytes().decode(errors="surrogateescape").split("\0"))[:-1]
        # The name, in parentheses, may hold anything; the fields after it do not.
        fields = (place / "stat").read_text(errors="replace").rpartition(") ")[2].split()
        owner = place.stat().st_uid
    except OSError:
        return None
    if fields[0] in "ZX":
        return None
    program = None
    with suppress(OSError):
        program = os.readlink(place / "exe")  # noqa: PTH115 - it may end in " (deleted)"
    return Process(pid, int(fields[1]), int(fields[19]), owner, argv, program)


class Handle:
    """A handle of one process, child or not. A later process with the same pid is neither awaited nor signalled."""

    def __init__(self, pid: int, started: int | None = None) -> None:
        """Take hold. Raises ProcessLookupError if it is gone, or is not the one that `started` then."""
        self.pid = pid
        self._descriptor = pidfd_open(pid)
        now = look(pid)
        if started is not None and (now is None or now.started != started):
            os.close(self._descriptor)
            raise ProcessLookupError(f"process {pid} is gone")
        self._loop = asyncio.get_running_loop()
        self._ended = asyncio.Event()
        self._loop.add_reader(self._descriptor, self._end)

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return not self._ended.is_set()

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal; it may be gone."""
        if self.alive:
            with suppress(ProcessLookupError, PermissionError):
                pidfd_send_signal(self._descriptor, number)

    async def wait(self, timeout: float | None = None) -> bool:
        """Wait until it has ended; False if `timeout` seconds passed before."""
        # No asyncio.timeout: in a cancelled task that of Debian 12's Python, 3.11.2, raises no TimeoutError.
        waiting = asyncio.ensure_future(self._ended.wait())
        try:
            await asyncio.wait({waiting}, timeout=timeout)
        finally:
            waiting.cancel()
        return not self.alive

    def close(self) -> None:
        """Close the handle and leave the process as it is. Pending waits return as if it had ended."""
        if self._descriptor >= 0:
            self._loop.remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1
        self._ended.set()

    def _end(self) -> None:
        self._loop.remove_reader(self._descriptor)
        with suppress(ChildProcessError):
            os.waitid(P_PIDFD, self._descriptor, os.WEXITED)
        self._ended.set()


def named(name: str) -> set[int]:
    """The processes whose program is called so."""
    found = set()
    for place in _PROC.glob("[0-9]*"):
        with suppress(OSError):
            if (place / "comm").read_text().strip() == name:
                found.add(int(place.name))
    return found
