"""`discovery register ... -- COMMAND`: the command's life, its registration, its signals, its terminal, its status."""

import ctypes
import fcntl
import os
import pty
import signal
import socket
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from discovery.system.embedded import EmbeddedEtcd
from discovery.testing import eventually_sync, free_port, require_program, within

DISCOVERY = (sys.executable, "-m", "discovery")
PASSED_ON = ("HUP", "USR1", "USR2", "WINCH", "QUIT")

# Tells what it is sent, and at its end which records were there. Listens while the file `listen` is there.
SERVER = """
import os, signal, socket, sys, time
port, directory = int(sys.argv[1]), sys.argv[2]

def say(*words):
    print(*words, flush=True)

def end(number, frame):
    records = os.path.join(directory, "registry", "web")
    say("end", signal.Signals(number).name, *(os.listdir(records) if os.path.isdir(records) else ()))
    os._exit(7)

for name in ("HUP", "USR1", "USR2", "WINCH", "QUIT"):
    signal.signal(getattr(signal, "SIG" + name), lambda number, frame: say("got", signal.Signals(number).name))
signal.signal(signal.SIGTERM, end)
signal.signal(signal.SIGINT, end)
say("started", *sorted(key for key in os.environ if key.startswith("GRPC")), *signal.pthread_sigmask(0, []))
listener = None
while True:
    wanted = os.path.exists(os.path.join(directory, "listen"))
    if wanted and listener is None:
        listener = socket.create_server(("127.0.0.1", port))
        say("listening")
    elif not wanted and listener is not None:
        listener = listener.close()
    time.sleep(0.01)
"""

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


@dataclass
class Run:
    """One `discovery register` with a command, and what both have said."""

    process: subprocess.Popen[bytes]
    directory: Path
    port: int

    @property
    def said(self) -> list[str]:
        return (self.directory / "stdout").read_text().splitlines()

    @property
    def log(self) -> str:
        return (self.directory / "stderr").read_text()

    @property
    def records(self) -> list[str]:
        records = self.directory / "registry" / "web"
        return sorted(path.name for path in records.iterdir()) if records.is_dir() else []

    def listen(self) -> None:
        (self.directory / "listen").touch()

    def says(self, line: str) -> None:
        eventually_sync(lambda: line in self.said, f"the command to say {line!r}", timeout=30)

    def registered(self) -> None:
        eventually_sync(lambda: self.records == [f"127.0.0.1:{self.port}"], "its record", timeout=30)

    def send(self, *numbers: signal.Signals) -> None:
        for number in numbers:
            self.process.send_signal(number)

    def children(self) -> dict[int, str]:
        """Its child processes, and the state of each (Z for a zombie)."""
        found = {}
        for place in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                state, parent = (place / "stat").read_text().rpartition(") ")[2].split()[:2]
                if int(parent) == self.process.pid:
                    found[int(place.name)] = state
        return found

    def ends(self, timeout: float = 30) -> int:
        return self.process.wait(within(timeout))


Start = Callable[..., Run]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts it with a command, by default the server above; nothing outlives the test."""
    runs: list[Run] = []
    (tmp_path / "server.py").write_text(SERVER)
    (tmp_path / "registry").mkdir()

    def started(
        *options: str,
        command: tuple[str, ...] = (),
        registry: str = "",
        prepare: Callable[[], object] | None = None,
        under: tuple[str, ...] = (),
    ) -> Run:
        port = free_port()
        command = command or (sys.executable, str(tmp_path / "server.py"), str(port), str(tmp_path))
        arguments = ["--registry", registry or f"file://{tmp_path}/registry", "--run-dir", str(tmp_path / "run")]
        with (tmp_path / "stdout").open("wb") as stdout, (tmp_path / "stderr").open("wb") as stderr:
            process = subprocess.Popen(
                [*under, *DISCOVERY, "register", "web", f"127.0.0.1:{port}", *arguments, *options, "--", *command],
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                env={name: value for name, value in os.environ.items() if not name.startswith("GRPC")},
                start_new_session=True,
                preexec_fn=prepare,  # noqa: PLW1509 - it takes no lock
            )
        runs.append(Run(process, tmp_path, port))
        return runs[-1]

    yield started
    for run in runs:
        for pid in _session(run.process.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        run.process.wait()
        assert "Traceback" not in run.log


def test_it_is_registered_once_it_listens_and_withdrawn_before_it_is_stopped(start: Start) -> None:
    run = start("--ttl", "60")
    run.says("started")  # with no variable of ours, and no signal blocked
    eventually_sync(lambda: "check failing" in run.log, timeout=30)
    assert run.records == []
    run.listen()
    run.registered()
    run.send(signal.SIGTERM)
    assert run.ends() == 7
    assert run.said == ["started", "listening", "end SIGTERM"]
    assert run.records == []


@pytest.mark.parametrize("option", ["WINCH", "SIGQUIT"])
def test_other_signals_are_passed_on_as_they_are_and_one_may_be_named_to_stop_it(start: Start, option: str) -> None:
    run = start("--stop-signal", option, "--drain", "0")
    run.listen()
    run.registered()
    stop = option.removeprefix("SIG")
    for name in PASSED_ON:
        if name != stop:
            run.send(signal.Signals[f"SIG{name}"])
            run.says(f"got SIG{name}")
    assert run.records
    run.send(signal.Signals[f"SIG{stop}"])
    run.says(f"got SIG{stop}")
    assert run.records == []
    assert run.process.poll() is None
    run.send(signal.SIGINT)
    assert run.ends() == 7
    assert run.said[-1] == "end SIGINT"


@pytest.mark.parametrize(
    ("command", "code", "line"),
    [
        (("sh", "-c", "exit 5"), 5, ""),
        (("true",), 0, ""),
        (("sh", "-c", "kill -9 $$"), 137, ""),
        (("sh", "-c", "kill -TERM $$"), 143, ""),
        (("no-such-program", "--help"), 127, "discovery: no-such-program: not found\n"),
        (("/etc/passwd",), 126, "discovery: /etc/passwd: Permission denied\n"),
        (("/",), 126, "discovery: /: Permission denied\n"),
    ],
)
def test_it_exits_as_the_command_does(start: Start, command: tuple[str, ...], code: int, line: str) -> None:
    run = start("--check", "none", command=command)
    assert run.ends() == code
    assert run.said == []
    assert run.records == []
    if line:
        assert run.log == line


def test_the_registration_goes_with_the_command(start: Start) -> None:
    run = start("--ttl", "600")
    run.listen()
    run.registered()
    (child,) = run.children()
    os.kill(child, signal.SIGKILL)
    assert run.ends() == 137
    assert run.records == []


def test_a_command_that_no_longer_listens_is_withdrawn_and_comes_back(start: Start, tmp_path: Path) -> None:
    run = start("--check-interval", "0.1", "--ttl", "600")
    run.listen()
    run.registered()
    (tmp_path / "listen").unlink()
    eventually_sync(lambda: run.records == [], timeout=30)
    run.listen()
    run.registered()
    assert run.process.poll() is None


def test_an_http_check_asks_for_its_path_where_it_is_told_to(start: Start, tmp_path: Path) -> None:
    served = tmp_path / "served"
    served.mkdir()
    port = free_port()
    web = (sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1", "--directory", str(served))
    run = start("--check-path", "/health", "--check-address", f"127.0.0.1:{port}", command=web)
    # As the server logs it: the check may have failed before the server listened, and only its first reason is logged.
    eventually_sync(lambda: '"GET /health HTTP/1.1" 404' in run.log, timeout=30)
    assert run.records == []
    (served / "health").touch()
    run.registered()


def test_the_registry_never_stops_the_command(start: Start) -> None:
    require_program("etcd")
    etcd = EmbeddedEtcd()
    run = start(registry=etcd.url)
    run.listen()
    eventually_sync(lambda: "trying again" in run.log, timeout=30)
    try:
        etcd.start()
        key = f"/services/web/127.0.0.1:{run.port}"
        eventually_sync(lambda: key in etcd.ctl("get", "", "--prefix", "--keys-only"), timeout=30)
        etcd.kill()
        run.send(signal.SIGTERM)
        assert run.ends() == 7
    finally:
        etcd.stop()


def test_two_signals_at_once_are_one_request_and_a_later_one_does_not_wait(start: Start) -> None:
    run = start("--drain", "600")
    run.listen()
    run.registered()
    run.send(signal.SIGTERM, signal.SIGINT)
    eventually_sync(lambda: run.records == [], timeout=30)
    assert run.process.poll() is None
    assert not any(line.startswith("end") for line in run.said)
    deadline = time.monotonic() + within(30)
    while run.process.poll() is None and time.monotonic() < deadline:
        run.send(signal.SIGTERM)
        time.sleep(0.1)
    assert run.ends() == 7
    assert run.said[-1] == "end SIGTERM"


def test_what_is_ignored_stays_ignored(start: Start) -> None:
    """As nohup starts it."""
    run = start("--check", "none", prepare=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    run.says("started")
    run.registered()
    run.send(signal.SIGHUP)
    run.send(signal.SIGUSR1)
    run.says("got SIGUSR1")
    assert "got SIGHUP" not in run.said
    run.send(signal.SIGTERM)
    assert run.ends() == 7


def test_what_a_shell_ignores_for_a_job_in_the_background_is_not_ignored(start: Start) -> None:
    """Point 31. Neither by it nor by its command."""

    def prepare() -> None:
        for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGUSR1):
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGUSR2})

    status = "grep -E '^Sig(Blk|Ign)' /proc/self/status; exec sleep 600"
    run = start("--check", "none", prepare=prepare, command=("sh", "-c", status))
    run.registered()
    eventually_sync(lambda: len(run.said) == 2)
    standard = 2**31 - 1
    assert [int(line.split()[1], 16) & standard for line in run.said] == [0, 0]
    run.send(signal.SIGINT)
    assert run.ends() == 128 + signal.SIGINT
    assert run.records == []


def test_it_sees_the_end_of_its_command_where_whoever_started_it_ignores_the_end_of_children(start: Start) -> None:
    run = start(command=("sh", "-c", "exit 5"), prepare=lambda: signal.signal(signal.SIGCHLD, signal.SIG_IGN))
    assert run.ends() == 5
    assert run.records == []


def test_a_killed_one_leaves_the_command_running(start: Start) -> None:
    run = start()
    run.listen()
    run.registered()
    (child,) = run.children()
    run.process.kill()
    assert run.ends() == -signal.SIGKILL
    os.kill(child, signal.SIGTERM)
    eventually_sync(lambda: any(line.startswith("end SIGTERM") for line in run.said))


def test_orphans_that_become_its_children_are_buried(start: Start, tmp_path: Path) -> None:
    """As they do in a container whose first process it is."""
    subreaper = 36
    script = f"(sh -c 'sleep 0.2; touch {tmp_path}/done' &); exec sleep 600"
    prctl = ctypes.CDLL(None).prctl
    run = start(command=("sh", "-c", script), prepare=lambda: prctl(subreaper, 1, 0, 0, 0))
    eventually_sync((tmp_path / "done").exists, timeout=30)
    eventually_sync(lambda: len(run.children()) == 1, timeout=10)
    run.send(signal.SIGTERM)
    assert run.ends() == 143


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
    return [state for _, state, its_group, _ in _processes() if its_group == group]


def _session(leader: int) -> list[int]:
    return [pid for pid, _, _, session in _processes() if session == leader]


def _processes() -> Iterator[tuple[int, str, int, int]]:
    """Each one's id, state, group and session."""
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            state, _, group, session = (place / "stat").read_text().rpartition(") ")[2].split()[:4]
            yield int(place.name), state, int(group), int(session)


def test_without_a_command_a_check_holds_it_back(tmp_path: Path) -> None:
    port = free_port()
    registry = tmp_path / "registry"
    registry.mkdir()
    command = [*DISCOVERY, "register", "web", f"127.0.0.1:{port}", "--check", "tcp"]
    command += ["--registry", f"file://{registry}", "--run-dir", str(tmp_path / "run"), "--timeout", "10"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        told = process.stderr.readline()
        assert told.startswith(f"discovery: web/127.0.0.1:{port} is registered once its check passes: ")
        assert "refused" in told
        with socket.create_server(("127.0.0.1", port)):
            assert process.stdout.readline().startswith("registered ")
        process.terminate()
        assert process.wait(within(30)) == 0


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--"], "name the command to run after --"),
        (["--check", "none", "--check-path", "/x", "--", "true"], "--check tcp or --check http"),
        (["--check", "tcp", "--check-path", "/x", "--", "true"], "--check-path is for --check http"),
        (["--check-path", "x", "--", "true"], "--check-path 'x'"),
        (["--check", "http", "--check-address", "x", "--", "true"], "'x' is not HOST:PORT"),
        (["--stop-signal", "KILL", "--", "true"], "--stop-signal 'KILL' is none of TERM, INT"),
        (["--registry", "nonsense", "--", "true"], "'nonsense' is not a URL"),
        (["--registry", "nonsense://x", "--", "true"], "'nonsense' is not known"),
        (["true"], "(true)"),
    ],
)
def test_a_wrong_argument_is_a_usage_error_and_nothing_is_started(
    arguments: list[str], reason: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from discovery.cli import main

    monkeypatch.setenv("DISCOVERY_REGISTRY", "memory://")
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    assert main(["register", "web", "127.0.0.1:1", *arguments]) == 2
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before
    out, err = capfd.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert reason in err
