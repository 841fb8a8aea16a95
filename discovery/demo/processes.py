"""The processes of the demo: each has a session of its own, and all end with the demo, their children included."""

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from pathlib import Path
from types import FrameType, TracebackType
from typing import Self, TypeVar

from discovery.demo.directories import new_directory, sweep
from discovery.errors import DiscoveryError

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36  # prctl(2)
_LIBC = ctypes.CDLL(None)
_ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_PREFIX = "discovery-demo-"
"""What the names of the directories of all stages begin with."""
_POLL_SECONDS = 0.02
"""Seconds between two evaluations of a condition: short for the person who watches."""

_REAP_SECONDS = 0.01
"""Seconds between two attempts to reap orphaned descendants, which end at once."""

T = TypeVar("T")


class Interrupted(Exception):  # noqa: N818 - not an error
    """A signal has requested the end of the demo."""


class StepFailedError(DiscoveryError):
    """A step of the demo has failed."""


class DemoProcess:
    """A started process and the file with its output."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], output: Path) -> None:
        self.name = name
        self.process = process
        self._output = output

    @property
    def output(self) -> str:
        """The output of the process so far."""
        return self._output.read_text(errors="replace")

    def has_written(self, text: str) -> bool:
        """Return True if the process has written `text`."""
        return text in self.output


class Stage:
    """A temporary directory and the demo's processes. The end of the block ends the processes, then the directory.

    A signal that requests the end makes the next `wait` raise Interrupted, so no process stays half started. The
    processes get SIGTERM if this one is killed, or if the thread ends that started them.
    """

    def __init__(self, parent: Path | None = None) -> None:
        """Create the stage. Entering the block creates the directory, in `parent` or among the temporary files."""
        self._parent = parent
        self._ending = ExitStack()
        self._children: list[DemoProcess] = []
        self._asked = False
        self.directory = Path()

    def __enter__(self) -> Self:
        """Handle the signals, become the parent of orphaned descendants, and create the directory.

        The directories that killed stages have left are removed.
        """
        for number in _ENDING_SIGNALS:
            self._ending.callback(signal.signal, number, signal.signal(number, self._ask))
        _LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        # The path of a Unix socket has at most 107 bytes, and this directory has Unix sockets.
        temporary = tempfile.gettempdir() if len(tempfile.gettempdir()) <= 40 else "/tmp"  # noqa: S108 - see `sweep`
        parent = self._parent or Path(temporary)
        sweep(_PREFIX, parent)
        self.directory, lock = new_directory(_PREFIX, parent)
        self._ending.callback(lock.close)
        self._ending.callback(shutil.rmtree, self.directory, ignore_errors=True)
        self._ending.callback(_kill_the_rest)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the processes, leave the entered resources, kill orphaned descendants, and remove the directory."""
        for child in self._children:
            child.process.terminate()  # all at once; `stop` waits for each below
        self._ending.close()

    def enter(self, resource: AbstractContextManager[T]) -> T:
        """Enter `resource`, and return its value. The end of the stage leaves `resource`."""
        return self._ending.enter_context(resource)

    def start_python(
        self, name: str, *arguments: str, under: Sequence[str] = (), environment: Mapping[str, str] | None = None
    ) -> DemoProcess:
        """Start this Python with `arguments`, without this machine's configuration of discovery.

        `under` is the beginning of a command that runs a program, such as `nsenter`. `environment` has further
        variables.
        """
        variables = {key: value for key, value in os.environ.items() if not key.startswith("DISCOVERY_")}
        variables |= {"DISCOVERY_CONFIG": os.devnull, **(environment or {})}
        path = self.directory / f"{name}.log"
        parent = os.getpid()
        with path.open("wb") as output:
            process = subprocess.Popen(
                [*under, sys.executable, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self.directory,
                env=variables,
                preexec_fn=lambda: _end_with(parent),  # noqa: PLW1509 - a call of prctl takes no lock
                start_new_session=True,  # Ctrl-C reaches only the demo, which then stops the process in order
            )
        child = DemoProcess(name, process, path)
        self._children.append(child)
        self._ending.callback(self.stop, child)
        return child

    def stop(self, child: DemoProcess, grace: float = 12.0) -> int:
        """Send SIGTERM to `child`, and SIGKILL after `grace` seconds. Return the exit status."""
        if child.process.poll() is None:
            child.process.terminate()
            with suppress(subprocess.TimeoutExpired):
                child.process.wait(grace)
        if child.process.poll() is None:
            child.process.kill()
        if child in self._children:
            self._children.remove(child)
        return child.process.wait()

    def check(self) -> None:
        """Raise Interrupted if a signal has requested the end."""
        if self._asked:
            raise Interrupted

    def release(self, child: DemoProcess) -> None:
        """Let `child` end by itself: its end is no failure of a step."""
        if child in self._children:
            self._children.remove(child)

    def complete(self, child: DemoProcess, what: str, timeout: float | None = None) -> None:
        """Wait until `child` has ended by itself. Raises StepFailedError if it fails, and what `wait` raises."""
        self.release(child)
        self.wait(lambda: child.process.poll() is not None, what, timeout)
        if child.process.returncode:
            raise StepFailedError(f"{child.name} failed: {_last_line(child.output)}")

    def wait(self, condition: Callable[[], bool], what: str, timeout: float | None = 15.0) -> None:
        """Wait until `condition` returns True. Raises StepFailedError if a child ends or after `timeout` seconds.

        `what` describes the condition in the message; None means no timeout. Raises Interrupted after a signal.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            self.check()
            for child in self._children:
                if child.process.poll() is not None:
                    raise StepFailedError(f"{child.name} ended: {_last_line(child.output)}")
            if condition():
                return
            if deadline is not None and time.monotonic() > deadline:
                logs = (f"{child.name}: {_last_line(child.output)}" for child in self._children if child.output)
                raise StepFailedError(f"waited {timeout:g} s, which was not enough until {what}; {'; '.join(logs)}")
            time.sleep(_POLL_SECONDS)

    def _ask(self, _: int, __: FrameType | None) -> None:
        self._asked = True


def _end_with(parent: int) -> None:
    """Have this process get SIGTERM at the end of its parent, even if the parent has no time to send the signal."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:  # it ended before
        os._exit(1)


def _last_line(text: str) -> str:
    return next(reversed(text.strip().splitlines()), "(nothing)")


def _kill_the_rest() -> None:
    # This process is the parent of orphaned descendants, such as a HAProxy whose daemon was killed.
    while pids := list(_own_children()):
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for pid in pids:
            # No wait for a single one: the first process of a container ends after every other one has been reaped.
            with suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        time.sleep(_REAP_SECONDS)


def _own_children() -> Iterable[int]:
    for path in Path("/proc/self/task").glob("*/children"):
        with suppress(OSError):
            yield from map(int, path.read_text().split())
