"""Processes that may not be our children, found in /proc."""

import os
import signal
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from discovery.toolkit import ProcessHandle

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


def send_signal(handle: ProcessHandle, number: signal.Signals) -> None:
    """Send a signal; a process of another user is left alone."""
    with suppress(PermissionError):
        handle.send_signal(number)


def named(name: str) -> set[int]:
    """The processes whose program is called so."""
    found = set()
    for place in _PROC.glob("[0-9]*"):
        with suppress(OSError):
            if (place / "comm").read_text().strip() == name:
                found.add(int(place.name))
    return found


def open_handles(processes: Iterable[Process]) -> list[ProcessHandle]:
    """Return a handle of each process that still runs. The caller closes the handles."""
    handles = []
    for process in processes:
        with suppress(ProcessLookupError):
            handles.append(ProcessHandle(process.pid, started=process.started))
    return handles
