"""`discovery register ... -- COMMAND` as a child process, and the server that the command runs."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
import warm

from discovery.testing import eventually_sync, free_port, within

DISCOVERY = (sys.executable, "-m", "discovery")

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


@dataclass
class Run:
    """One `discovery register` with a command, and what both have said."""

    process: subprocess.Popen[bytes] | warm.Forked
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
def start(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Start]:
    """Starts it with a command, by default the server above; nothing outlives the test. A `warm` test's is forked."""
    forks = request.node.get_closest_marker("warm") is not None
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
        line = ("register", "web", f"127.0.0.1:{port}", *arguments, *options, "--", *command)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("GRPC")}
        process: subprocess.Popen[bytes] | warm.Forked
        with (tmp_path / "stdout").open("wb") as stdout, (tmp_path / "stderr").open("wb") as stderr:
            if forks and not under and prepare is None:
                process = warm.start(*line, env=environment, stdout=stdout, stderr=stderr)
            else:
                process = subprocess.Popen(
                    [*under, *DISCOVERY, *line],
                    stdin=subprocess.DEVNULL,
                    stdout=stdout,
                    stderr=stderr,
                    env=environment,
                    start_new_session=True,
                    preexec_fn=prepare,  # noqa: PLW1509 - it takes no lock
                )
        runs.append(Run(process, tmp_path, port))
        return runs[-1]

    yield started
    for run in runs:
        for pid in session(run.process.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        run.process.wait()
        assert "Traceback" not in run.log


def session(leader: int) -> list[int]:
    return [pid for pid, _, _, session in processes() if session == leader]


def processes() -> Iterator[tuple[int, str, int, int]]:
    """Each one's id, state, group and session."""
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            state, _, group, session = (place / "stat").read_text().rpartition(") ")[2].split()[:4]
            yield int(place.name), state, int(group), int(session)
