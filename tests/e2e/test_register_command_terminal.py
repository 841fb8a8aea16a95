"""`discovery register ... -- COMMAND` on a terminal: Ctrl-C, Ctrl-Z, and reading by the command."""

import fcntl
import os
import pty
import signal
import sys
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest
from registering import Start, processes, start

from discovery.testing import eventually_sync

__all__ = ["start"]


# What a shell does for a job in the foreground of its terminal; `fg` is a file that appears.
SHELL = """
import os, signal, sys, time
signal.signal(signal.SIGTTOU, signal.SIG_IGN)
job = os.posix_spawn(sys.argv[2], sys.argv[2:], os.environ, setpgroup=0, setsigdef=[signal.SIGTTOU])
os.tcsetpgrp(0, job)
while os.WIFSTOPPED(status := os.waitpid(job, os.WUNTRACED)[1]):
    print("stopped", flush=True)
    while not os.path.exists(sys.argv[1]):
        time.sleep(0.01)
    os.tcsetpgrp(0, job)
    os.killpg(job, signal.SIGCONT)
sys.exit(os.waitstatus_to_exitcode(status))
"""


class Terminal:
    """A terminal whose foreground is what a test starts."""

    def __init__(self) -> None:
        self.ours, self.theirs = pty.openpty()
        self.name = os.ttyname(self.theirs)

    def take(self) -> None:
        """In the new process: be its session's terminal, and its stdin."""
        fcntl.ioctl(self.theirs, termios.TIOCSCTTY, 0)
        os.dup2(self.theirs, 0)

    def types(self, text: bytes) -> None:
        os.write(self.ours, text)


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    terminal = Terminal()
    yield terminal
    os.close(terminal.ours)
    os.close(terminal.theirs)


def test_ctrl_c_reaches_the_command_once_and_withdraws_it(start: Start, terminal: Terminal) -> None:
    tell = (
        "import signal, sys, time\n"
        "for number in (signal.SIGINT, signal.SIGUSR1):\n"
        "    signal.signal(number, lambda number, _: print('got', number, flush=True))\n"
        "print('started', flush=True)\n"
        "while True: time.sleep(0.01)\n"
    )
    run = start("--check", "none", "--drain", "0", command=(sys.executable, "-c", tell), prepare=terminal.take)
    run.says("started")
    run.registered()
    terminal.types(b"\x03")
    run.says(f"got {signal.SIGINT}")
    eventually_sync(lambda: run.records == [], timeout=30)
    run.send(signal.SIGUSR1)  # of one who types it elsewhere: passed on
    run.says(f"got {signal.SIGUSR1}")
    run.send(signal.SIGHUP)
    assert run.ends() == 128 + signal.SIGHUP
    assert run.said == ["started", f"got {signal.SIGINT}", f"got {signal.SIGUSR1}"]


def test_the_command_may_read_the_terminal_and_ctrl_z_stops_both(
    start: Start, terminal: Terminal, tmp_path: Path
) -> None:
    (tmp_path / "shell.py").write_text(SHELL)
    shell = (sys.executable, str(tmp_path / "shell.py"), str(tmp_path / "fg"))
    run = start("--check", "none", command=("cat",), prepare=terminal.take, under=shell)
    run.registered()
    terminal.types(b"hello\n")
    run.says("hello")
    terminal.types(b"\x1a")
    run.says("stopped")
    (job,) = run.children()
    eventually_sync(lambda: _states_of_group(job) == ["T", "T"])
    (tmp_path / "fg").touch()
    eventually_sync(lambda: _states_of_group(job) == ["S", "S"])
    terminal.types(b"again\n")
    run.says("again")
    terminal.types(b"\x04")
    assert run.ends() == 0
    assert run.said == ["hello", "stopped", "again"]
    assert run.records == []


def _states_of_group(group: int) -> list[str]:
    return [state for _, state, its_group, _ in processes() if its_group == group]
