"""A program that runs in the foreground: started, adopted from a daemon that died, watched, signalled and stopped."""

import asyncio
import json
import os
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from structlog.typing import FilteringBoundLogger

from discovery.errors import ApplyError
from discovery.system.asyncio_tools import cancel_and_wait
from discovery.system.environment import child_environment
from discovery.system.files import write_atomically
from discovery.system.process import ProcessHandle
from discovery.system.runcommand import end_of
from discovery.system.terminal import printable

_RECORD = "program.json"
"""Name in the run directory of what identifies the program: process id, start time and command."""
_PIPE = "program.log"
"""Name of the pipe for what the program writes. The program holds both ends, so that it outlives the daemon."""
_TAIL_LINES = 8
"""Lines of the program's output that are kept for messages."""
_READ_BYTES = 1 << 16
"""Bytes that are read at once: a pipe holds as many."""
_DELAYS = (0.0, 0.5, 1.0, 2.0, 5.0, 10.0)
"""Seconds before each restart in a row, the last before every later one."""
_STABLE_SECONDS = 60.0
"""Seconds of uptime after which the next restart has no delay."""
_POLL_SECONDS = 0.02
"""Seconds between two looks for processes that a program has left."""
_KILL_SECONDS = 1.0
"""Seconds to wait after SIGTERM, and after SIGKILL, so that sockets are closed when the stop returns."""


class Stopping(NamedTuple):
    """The graceful end of a program: the signal `number`, and the `seconds` that the program then has.

    A program that still runs gets SIGTERM, and SIGKILL a second later.
    """

    number: signal.Signals = signal.SIGTERM
    seconds: float = 8.0


_GRACEFUL = Stopping()


class Program:
    """A program that an instance runs in the foreground: started, adopted from a daemon that died, watched and stopped.

    `setup` of a consumer calls `adopt`; `apply` calls `start` if the program is not `running`; `teardown` calls `stop`,
    or `leave` if a successor goes on with the program; `end_orphans` returns `end_left_program`. Each line that the
    program writes is logged. A program that ends unexpectedly is not started by this class: after a delay, which grows
    with each end in a row, `request_apply` is called. Belongs to one event loop.
    """

    def __init__(
        self,
        command: Sequence[str],
        run_dir: Path,
        log: FilteringBoundLogger,
        stopping: Stopping = _GRACEFUL,
        request_apply: Callable[[], None] = lambda: None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Store the arguments.

        `command` is the argument list, and `stopping` is the graceful end. `run_dir`, that of the instance, keeps the
        process id. `log` gets what the program writes. `request_apply` is called, on the event loop, when a program
        that has ended is to be started again. `environment` is added to that of `child_environment`.
        """
        self._command = list(command)
        self._run_dir = run_dir
        self._log = log
        self._stopping = stopping
        self._request_apply = request_apply
        self._environment = {**child_environment(), **(environment or {})}
        self._handle: ProcessHandle | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._pipe = -1
        self._rest = b""
        self._crashes = 0
        self.tail: deque[str] = deque(maxlen=_TAIL_LINES)
        """The last lines that the program has written."""

    @property
    def running(self) -> bool:
        """True while the program runs."""
        return self._handle is not None and self._handle.alive

    @property
    def pid(self) -> int | None:
        """Process id of the program; None if the program does not run."""
        return self._handle.pid if self._handle is not None and self._handle.alive else None

    @property
    def name(self) -> str:
        """Name of the program, for messages."""
        return Path(self._command[0]).name

    async def adopt(self) -> bool:
        """Take over the program that an earlier daemon has left, and return True; end it if it has another command."""
        self._open_pipe()
        record = _read_record(self._run_dir)
        if record is None:
            return False
        try:
            handle = ProcessHandle(record.pid, started=record.started)
        except (ProcessLookupError, OSError):
            return False
        if record.command != self._command:
            self._log.info("the program of an earlier daemon has another command and is ended", pid=record.pid)
            await _end(handle, record.stopping)
            return False
        self._watch(handle)
        self._log.info("took over the program of an earlier daemon", program=self.name, pid=record.pid)
        return True

    async def start(self, seconds: float, ready: Callable[[], bool] = lambda: True) -> None:
        """Start the program. Raises ApplyError if the program ends within `seconds`, or until it is `ready`.

        `ready` is asked again and again; without it the program is ready as soon as it runs.
        """
        self._open_pipe()
        self.tail.clear()
        try:
            child = subprocess.Popen(  # noqa: ASYNC220 - returns at once; asyncio's own would end with this loop
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=self._pipe,
                stderr=self._pipe,
                cwd="/",
                env=self._environment,
                start_new_session=True,
            )
        except OSError as error:
            raise ApplyError(f"{self._command[0]} cannot be run: {error.strerror}") from None
        handle = ProcessHandle(child.pid, on_exit=child.wait)
        record = _Record(child.pid, _start_time(child.pid), self._command, self._stopping)
        _write_record(self._run_dir, record)
        deadline = time.monotonic() + seconds
        while handle.alive and not ready() and time.monotonic() < deadline:
            await handle.wait(_POLL_SECONDS)
        if not handle.alive:
            raise ApplyError(f"{self.name} does not start: {end_of(child.wait())}: {self.reason()}")
        self._log.info("program started", program=self.name, pid=child.pid)
        self._watch(handle)

    def send_signal(self, number: signal.Signals) -> None:
        """Send the signal `number` to the program. Raises ApplyError if the program does not run."""
        if self._handle is None or not self._handle.alive:
            raise ApplyError(f"{self.name} does not run")
        self._handle.send_signal(number)

    def reason(self) -> str:
        """Return the last lines of the program's output as a single line."""
        self._drain()
        return " / ".join(list(self.tail)[-3:]) or "it gave no reason"

    async def stop(self) -> None:
        """End the program gracefully, and then by force."""
        await self._unwatch()
        if self._handle is not None and self._handle.alive:
            await _end(self._handle, self._stopping)
            self._log.info("program stopped", program=self.name)
        with suppress(OSError):
            (self._run_dir / _RECORD).unlink()
        self._close()

    async def leave(self) -> None:
        """Leave the program running, for the next daemon to adopt."""
        await self._unwatch()
        self._close()

    def _close(self) -> None:
        if self._handle is not None:
            self._handle.close()
            self._handle = None
        if self._pipe >= 0:
            self._drain()
            with suppress(RuntimeError):
                asyncio.get_running_loop().remove_reader(self._pipe)
            os.close(self._pipe)
            self._pipe = -1

    async def _unwatch(self) -> None:
        if self._watcher is not None:
            await cancel_and_wait(self._watcher)
            self._watcher = None

    def _watch(self, handle: ProcessHandle) -> None:
        if self._handle is not None:
            self._handle.close()
        self._handle = handle
        if self._watcher is not None:
            self._watcher.cancel()
        self._watcher = asyncio.create_task(self._await_end(handle))

    async def _await_end(self, handle: ProcessHandle) -> None:
        since = time.monotonic()
        await handle.wait()
        self._crashes = 0 if time.monotonic() - since > _STABLE_SECONDS else self._crashes + 1
        delay = _DELAYS[min(max(self._crashes - 1, 0), len(_DELAYS) - 1)]
        self._log.error("the program has ended unexpectedly", program=self.name, pid=handle.pid, last=self.reason())
        await _end_group(handle.pid, self._stopping)
        await asyncio.sleep(delay)
        self._request_apply()

    def _open_pipe(self) -> None:
        if self._pipe >= 0:
            return
        path = self._run_dir / _PIPE
        with suppress(FileExistsError):
            os.mkfifo(path, 0o600)
        self._pipe = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        asyncio.get_running_loop().add_reader(self._pipe, self._drain)

    def _drain(self) -> None:
        if self._pipe < 0:
            return
        try:
            data = os.read(self._pipe, _READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        *lines, self._rest = (self._rest + data).split(b"\n")
        self._rest = self._rest[-_READ_BYTES:]
        for line in lines:
            if text := " ".join(printable(line.decode(errors="replace")).split()):
                self.tail.append(text)
                self._log.info(text, program=self.name)


class _Record(NamedTuple):
    pid: int
    started: int
    command: list[str]
    stopping: Stopping


def _start_time(pid: int) -> int:
    """Return the time at which a process started, in clock ticks since the machine booted; 0 if it has ended."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(") ")[2].split()[19])
    except (OSError, IndexError):
        return 0


def _write_record(run_dir: Path, record: _Record) -> None:
    write_atomically(run_dir / _RECORD, json.dumps(record._asdict()).encode(), 0o600)


def _read_record(run_dir: Path) -> _Record | None:
    try:
        document = json.loads((run_dir / _RECORD).read_bytes())
        stopping = Stopping(signal.Signals(document["stopping"][0]), float(document["stopping"][1]))
        record = _Record(int(document["pid"]), int(document["started"]), list(document["command"]), stopping)
    except (OSError, ValueError, TypeError, LookupError):
        return None
    return record if record.pid > 1 else None


async def _end(handle: ProcessHandle, stopping: Stopping) -> None:
    """End a program and its process group: gracefully, then by SIGTERM, then by SIGKILL. Closes the handle."""
    for number, seconds in (
        (stopping.number, stopping.seconds),
        (signal.SIGTERM, _KILL_SECONDS),
        (signal.SIGKILL, _KILL_SECONDS),
    ):
        if number is signal.SIGKILL and handle.alive:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(handle.pid, signal.SIGKILL)  # the session that the program was started with
        with suppress(PermissionError):
            handle.send_signal(number)
        if await handle.wait(seconds):
            break
    handle.close()


async def _end_group(leader: int, stopping: Stopping) -> None:
    """End what a program that was killed has left: its workers hold its sockets, and would serve on without it."""
    for number in (stopping.number, signal.SIGTERM, signal.SIGKILL):
        deadline = time.monotonic() + _KILL_SECONDS
        try:
            os.killpg(leader, number)
            while time.monotonic() < deadline:
                await asyncio.sleep(_POLL_SECONDS)
                os.killpg(leader, 0)
        except (ProcessLookupError, PermissionError):
            return


async def end_left_program(run_dir: Path) -> Mapping[int, str]:
    """End the program that a daemon has left in `run_dir`, that of an instance, as its `Stopping` says.

    Returns the name of the program by its process id, as `Consumer.end_orphans` does; empty if there is none.
    """
    record = _read_record(run_dir)
    if record is None:
        return {}
    try:
        handle = ProcessHandle(record.pid, started=record.started)
    except OSError:
        return {}
    await _end(handle, record.stopping)
    with suppress(OSError):
        (run_dir / _RECORD).unlink()
    return {record.pid: Path(record.command[0]).name}
