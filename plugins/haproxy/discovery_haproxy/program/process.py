"""Search for processes in /proc. The processes need not be children of this process."""

import os
import signal
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from discovery.toolkit import ProcessHandle

_PROC = Path("/proc")
_NOT_VISIBLE = (FileNotFoundError, ProcessLookupError, PermissionError)
"""Exceptions for a process that has ended or is hidden from this user. Any other OSError, such as EMFILE, fails the
search: an incomplete search would say that no HAProxy runs."""
_NO_PROGRAM = 0x00000004 | 0x00200000
"""Flags of a task that exits, and of a thread of the kernel (PF_EXITING and PF_KTHREAD in Linux's sched.h)."""
_ENVIRONMENT_END = 48
"""Index of env_end among the fields of /proc/PID/stat from the state on: 0 while a program is executed; see
proc_pid_stat(5)."""
_EXECUTE_SECONDS = 1.0
"""Seconds that execve(2) may take after it has released the former program's memory. It takes less than one ms of
processor time, for which a process waits on a busy machine."""
_LOOKS = 5
"""Reads without arguments after which a process counts as a process that has none.

An exec(3) between two reads leaves no arguments for a moment, and a process may execute several programs in turn.
"""
_POLL_SECONDS = 0.0005
"""Seconds between two looks at a process that executes a program."""


class Process(NamedTuple):
    """Data of a process, read from /proc."""

    pid: int
    parent: int
    started: int
    """Start time in clock ticks since the machine booted; pid and start time together identify a process."""
    owner: int
    argv: tuple[str, ...]
    program: str | None
    """Path of the executable; None if this user may not read the path."""


class Family(NamedTuple):
    """HAProxy's master, as it was executed last, and the pids of its children."""

    master: Process
    children: frozenset[int]


def find_processes(argument: str) -> list[Process]:
    """Return this user's processes with `argument` on the command line, and their children of any user.

    `argument` begins with a path. A path through other symbolic links to the same place, such as /var/run, is equal.
    Raises OSError if /proc cannot be read.
    """
    name, place = Path(argument).name, os.path.realpath(argument)
    found = map(read_process, _pids_with_words(os.fsencode(name)))
    matching = [
        process
        for process in found
        if process is not None and any(each.endswith(name) and os.path.realpath(each) == place for each in process.argv)
    ]
    ours = {process.pid for process in matching if process.owner == os.geteuid()}
    return [process for process in matching if process.pid in ours or process.parent in ours]


def _pids_with_words(words: bytes) -> Iterator[int]:
    """Yield the pids whose command lines contain these bytes. Only the command line of each process is read."""
    for pid in _pids():
        with suppress(*_NOT_VISIBLE):
            if words in _command_line(_PROC / pid):
                yield int(pid)


def _command_line(place: Path) -> bytes:
    """Return the command line of a process; empty for a thread of the kernel and for a process that ends.

    A process that executes a program has no command line for a moment: HAProxy's master executes itself at each start
    and reload.
    """
    deadline = time.monotonic() + _EXECUTE_SECONDS
    looks_without_arguments = 0
    while not (line := (place / "cmdline").read_bytes()):
        fields = _stat_fields(place)
        if fields[_ENVIRONMENT_END] != "0":  # the process has no arguments, or has executed the program since the read
            looks_without_arguments += 1
        if (
            fields[0] in "ZX"
            or int(fields[6]) & _NO_PROGRAM
            or looks_without_arguments == _LOOKS
            or time.monotonic() > deadline
        ):
            break
        time.sleep(_POLL_SECONDS)
    return line


def _stat_fields(place: Path) -> list[str]:
    """Return the fields of `/proc/PID/stat` from the state on: the name before, in parentheses, may hold anything."""
    return (place / "stat").read_text(errors="replace").rpartition(") ")[2].split()


def _pids() -> list[str]:
    # Path.glob ignores errors in some versions of Python.
    return [name for name in os.listdir(_PROC) if name.isdigit()]  # noqa: PTH208


def find_family(pids: Collection[int]) -> frozenset[int]:
    """Return those of `pids` that run, their parents that are the same program, and the descendants of all of these.

    Of HAProxy that is the master with its workers, whichever of them `pids` names.
    """
    running = {int(pid): process for pid in _pids() if (process := read_process(int(pid))) is not None} if pids else {}
    family = {pid for pid in pids if pid in running}
    for pid in tuple(family):
        process = running[pid]
        while (parent := running.get(process.parent)) is not None and parent.argv[:1] == process.argv[:1]:
            family.add(parent.pid)
            process = parent
    while more := {pid for pid, process in running.items() if process.parent in family} - family:
        family |= more
    return frozenset(family)


def read_master_family(pid: int) -> Family | None:
    """Return the master of HAProxy's process `pid`, which may be the master, with its children.

    None if there is no such process, or if /proc cannot be read.
    """
    try:
        master = read_process(pid)
        while master is not None and (parent := read_process(master.parent)) and parent.argv[:1] == master.argv[:1]:
            master = parent
        if master is None:
            return None
        running = (read_process(int(each)) for each in _pids())
        return Family(master, frozenset(each.pid for each in running if each and each.parent == master.pid))
    except OSError:
        return None


def masters(processes: list[Process]) -> list[Process]:
    """Return the processes whose parent is not among `processes`: HAProxy's master processes."""
    pids = {process.pid for process in processes}
    return [process for process in processes if process.parent not in pids]


def read_process(pid: int) -> Process | None:
    """Return the process `pid`; None if there is no such process, or if the process is a zombie.

    Raises OSError if the process cannot be read, as without a free descriptor.
    """
    place = _PROC / str(pid)
    try:
        argv = tuple(_command_line(place).decode(errors="surrogateescape").split("\0"))[:-1]
        fields = _stat_fields(place)
        owner = place.stat().st_uid
    except _NOT_VISIBLE:
        return None
    if fields[0] in "ZX":
        return None
    program = None
    with suppress(OSError):
        program = os.readlink(place / "exe")  # noqa: PTH115 - the link may end in " (deleted)"
    return Process(pid, int(fields[1]), int(fields[19]), owner, argv, program)


def socket_inodes(pids: Iterable[int]) -> set[str]:
    """Return the inodes of the sockets that the processes have open, as far as this user may read them."""
    found = set()
    for pid in pids:
        with suppress(OSError):
            for descriptor in os.scandir(_PROC / str(pid) / "fd"):
                with suppress(OSError):
                    kind, _, inode = os.readlink(descriptor.path).partition(":")  # noqa: PTH115 - it is no path
                    if kind == "socket":
                        found.add(inode.strip("[]"))
    return found


def send_signal(handle: ProcessHandle, number: signal.Signals) -> None:
    """Send a signal to the process. A process of another user gets no signal."""
    with suppress(PermissionError):
        handle.send_signal(number)


def pids_of_program(name: str) -> set[int]:
    """Return the pids of the processes whose program has this name."""
    found = set()
    for pid in _pids():
        with suppress(*_NOT_VISIBLE):
            if (_PROC / pid / "comm").read_text().strip() == name:
                found.add(int(pid))
    return found


def open_handles(processes: Iterable[Process]) -> Iterator[ProcessHandle]:
    """Yield a handle of each process that still runs. The caller closes the handles.

    A handle is opened when it is asked for, so that a caller that closes each before the next needs one descriptor.
    """
    for process in processes:
        with suppress(ProcessLookupError):
            yield ProcessHandle(process.pid, started=process.started)
