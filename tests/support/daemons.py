"""The daemon as a process, for tests that use it as a person would: fixtures that their conftests import."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import third_party
import warm

from discovery.testing import free_port, within

_ESTABLISHED = "01"
"""The state of a connection, in /proc/net/tcp."""
DISCOVERY = [sys.executable, "-m", "discovery"]


@dataclass
class Daemon:
    """One `discovery run`, its log in a file."""

    process: subprocess.Popen[bytes] | warm.Forked
    admin: str
    log_path: Path
    run_dir: Path

    @property
    def log(self) -> str:
        return self.log_path.read_text()

    def get(self, path: str) -> tuple[int, Any]:
        """The admin endpoint's answer: status, and the document if it is JSON, else the text."""
        try:
            with urllib.request.urlopen(f"http://{self.admin}{path}", timeout=within(5)) as answer:
                status, body = answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            status, body = error.code, error.read().decode()
        try:
            return status, json.loads(body)
        except ValueError:
            return status, body

    def consumer(self, name: str) -> dict[str, Any]:
        return next(each for each in self.get("/api/consumers")[1]["consumers"] if each["name"] == name)

    def provider(self, name: str) -> dict[str, Any]:
        return next(each for each in self.get("/api/providers")[1]["providers"] if each["name"] == name)

    def is_ready(self) -> bool:
        return self.get("/readyz")[0] == 200

    def clients(self) -> set[str]:
        """The addresses of clients of the admin endpoint whose question is not answered yet, as the kernel writes them.

        The daemon ends a connection with its answer.
        """
        port = f":{int(self.admin.rpartition(':')[2]):04X}"
        rows = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
        return {local for _, local, remote, state, *_ in rows if remote.endswith(port) and state == _ESTABLISHED}

    def stop(self, number: signal.Signals = signal.SIGTERM, timeout: float = 20) -> int:
        self.process.send_signal(number)
        return self.process.wait(within(timeout))


def run_stop(run_dir: Path, *arguments: str) -> tuple[int, str, str]:
    """Run `discovery stop` for a run directory; return the exit code, stdout and stderr."""
    done = warm.run("stop", "--run-dir", str(run_dir), *arguments, env=os.environ, timeout=within(120))
    return done.returncode, done.stdout, done.stderr


RecordFiles = tuple[str, Callable[[str, str], None]]
"""The URL of a file registry, and a function that writes a record: its key, its value."""


@dataclass
class Starter:
    """Starts daemons with directories and an admin port of their own, and ends those that a test left."""

    directory: Path
    command: tuple[str, ...] = tuple(DISCOVERY)
    environment: dict[str, str] = field(default_factory=dict)
    forks: bool = False
    started: list[Daemon] = field(default_factory=list)
    starting: threading.Lock = field(default_factory=threading.Lock)

    def __call__(
        self,
        *arguments: str,
        admin: str | None = None,
        run_dir: Path | None = None,
        under: Iterable[str] = (),
        program: Path | None = None,
    ) -> Daemon:
        """`discovery run` with these arguments; `under` is a command that runs it, `program` another `discovery`."""
        admin = admin or f"127.0.0.1:{free_port()}"
        with self.starting:
            number = len(self.started)
            run_dir = run_dir or self.directory / f"run-{number}"
            log_path = self.directory / f"daemon-{number}.log"
            discovery = DISCOVERY if program is None else [str(program)]
            command = [*under, *discovery, "run", "--admin", admin, "--run-dir", str(run_dir)]
            command += ["--state-dir", str(self.directory / "state"), *arguments]
            environment = {**os.environ, **self.environment}
            process: subprocess.Popen[bytes] | warm.Forked
            with log_path.open("wb") as log:
                if self.forks and not under and program is None and warm.suits(environment):
                    process = warm.start(*command[len(DISCOVERY) :], env=environment, stdout=log, stderr=log)
                else:
                    process = subprocess.Popen(
                        command,
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=log,
                        env=environment,
                        start_new_session=True,  # a process group of its own, as from a terminal
                    )
            daemon = Daemon(process, admin, log_path, run_dir)
            self.started.append(daemon)
        return daemon


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """In place of pytest's own, which is too long for sockets (107 bytes) when tests run in parallel."""
    with tempfile.TemporaryDirectory(prefix="e2e-") as directory:
        yield Path(directory)


@pytest.fixture
def start_daemon(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Starter]:
    with starting(tmp_path, forks=request.node.get_closest_marker("warm") is not None) as starter:
        yield starter


@contextmanager
def starting(directory: Path, *, forks: bool = False) -> Iterator[Starter]:
    """Yield what starts daemons with files in the directory, and end those that are left. Fails if one does not end."""
    starter = Starter(directory, forks=forks)
    try:
        yield starter
    finally:
        left = _ended(starter)
    assert left == {}


def _ended(starter: Starter) -> dict[int, str]:
    """End the daemons; return the processes that were left, and had to be killed."""
    for daemon in starter.started:
        if daemon.process.poll() is None:
            daemon.process.terminate()
    for daemon in starter.started:
        with suppress(subprocess.TimeoutExpired):
            daemon.process.wait(within(30))
        print(f"--- {daemon.log_path.name}\n{daemon.log}")
    left = processes(starter.directory)
    left |= {daemon.process.pid: "a daemon" for daemon in starter.started if daemon.process.poll() is None}
    for pid in left:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    for daemon in starter.started:
        daemon.process.wait()
    return left


def processes(directory: Path) -> dict[int, str]:
    """The processes that name a file in the directory on their command line, and that line."""
    found = {}
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            line = (place / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if f"{directory}/" in line:
                found[int(place.name)] = line
    return found


def catches(pid: int, number: signal.Signals) -> bool:
    """Return True if the process has a handler of its own for the signal. Raises OSError if there is no process."""
    (caught,) = (line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("SigCgt:"))
    return bool(int(caught.split()[1], 16) >> (number - 1) & 1)


@pytest.fixture
def file_registry(tmp_path: Path) -> RecordFiles:
    """Return the URL of a file registry, and a function that writes a record: its key, its value."""
    root = tmp_path / "registry"
    root.mkdir()
    return f"file://{root}", partial(write_record, root)


def write_record(root: Path, key: str, value: str) -> None:
    """Write a record of a file registry as an editor or git would."""
    path = root / key
    path.parent.mkdir(exist_ok=True)
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_text(value)
    temporary.replace(path)


@pytest.fixture
def install_plugin(tmp_path: Path, start_daemon: Starter) -> Callable[..., None]:
    """Return a function that installs a third-party plugin (name, source) for the daemons of this test."""
    site = tmp_path / "site"

    def install(name: str, source: str, distribution: str = "") -> None:
        third_party.install(site, name, source, distribution or f"third-party-{name}")
        start_daemon.environment["PYTHONPATH"] = str(site)

    return install
