"""Drop-in commands as processes, a registry in a directory, and small servers: for tests of what carries TCP."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import warm
from daemons import write_record

from discovery.model import join_host_port
from discovery.testing import eventually_sync, free_port, within

DISCOVERY = (sys.executable, "-m", "discovery")
TIMEOUT = 30.0


@dataclass(frozen=True)
class Directory:
    """A registry in a directory, written as an editor or git would."""

    root: Path

    @property
    def url(self) -> str:
        return f"file://{self.root}"

    def put(self, service: str, port: int, host: str = "127.0.0.1", id_: str = "b1") -> None:
        """Register a backend, in place of the backend with that id, if there is one."""
        write_record(self.root, f"{service}/{id_}", join_host_port(host, port))

    def remove(self, service: str, id_: str = "b1") -> None:
        """Withdraw a backend."""
        (self.root / service / id_).unlink()


@dataclass
class Command:
    """One running `discovery ...`, its log in a file."""

    process: subprocess.Popen[bytes] | warm.Forked
    log_path: Path

    @property
    def log(self) -> str:
        return self.log_path.read_text()

    def logs(self, text: str) -> None:
        """Wait until the log of the command has this text."""
        eventually_sync(lambda: text in self.log, f"the log to tell of {text!r}", TIMEOUT)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Ask it to end, and return its exit code."""
        self.process.send_signal(number)
        return self.process.wait(within(TIMEOUT))


@dataclass
class StartCommand:
    """Starts commands that run until they are stopped."""

    directory: Path
    environment: dict[str, str]
    started: list[Command] = field(default_factory=list)

    def __call__(self, *arguments: str, under: tuple[str, ...] = (), **variables: str) -> Command:
        """`discovery` with these arguments; `under` is a command that runs it."""
        log_path = self.directory / f"log-{len(self.started)}"
        with log_path.open("wb") as log:
            if under or not warm.suits(variables):
                process = subprocess.Popen(
                    [*under, *DISCOVERY, *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=self.environment | variables,
                    start_new_session=True,
                )
            else:
                process = warm.start(*arguments, env=self.environment | variables, stdout=log, stderr=log)
        self.started.append(Command(process, log_path))
        return self.started[-1]


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A directory whose name is short enough for sockets (107 bytes)."""
    with tempfile.TemporaryDirectory(prefix="amb-") as directory:
        yield Path(directory)


@pytest.fixture
def directory(short_path: Path) -> Directory:
    """A registry without any backend."""
    (short_path / "registry").mkdir()
    return Directory(short_path / "registry")


@pytest.fixture
def start_command(short_path: Path) -> Iterator[StartCommand]:
    """Nothing outlives the test, and nothing that was asked to end may leave a child behind."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("DISCOVERY_", "ETCD_PORT_"))}
    state = str(short_path / "state")
    ours |= {"DISCOVERY_RUN_DIR": str(short_path / "run"), "DISCOVERY_STATE_DIR": state, "STATE_DIRECTORY": state}
    start = StartCommand(short_path, ours)
    yield start
    children = {each.process.pid: descendants(each.process.pid) for each in start.started}
    for each in start.started:
        if each.process.poll() is None:
            each.process.terminate()
    stuck = []
    for each in start.started:
        try:
            each.process.wait(within(TIMEOUT))
        except subprocess.TimeoutExpired:
            stuck.append(each.process.args)
            each.process.kill()
            each.process.wait()
        print(f"--- {each.log_path.name}\n{each.log}")
    left = [pid for pids in children.values() for pid in pids if Path(f"/proc/{pid}").exists()]
    for pid in left:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    assert (stuck, left) == ([], [])
    assert not any("Traceback" in each.log for each in start.started)


def descendants(pid: int) -> list[int]:
    """A process's children, and theirs."""
    found: list[int] = []
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in map(int, (task / "children").read_text().split()):
                found += [child, *descendants(child)]
    return found


class Named:
    """A server that sends its name to each client, and then echoes every byte."""

    def __init__(self, name: str, host: str, port: int) -> None:
        """Listen. `port` is where."""
        self.name = name
        self.host = host
        self.port = port
        self.connections = 0
        self._open: set[socket.socket] = set()
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host, port), family=family)
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Refuse from now on, and end what is open."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in list(self._open):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._thread.join(within(TIMEOUT))

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._open.add(connection)
            threading.Thread(target=self._echo, args=(connection,), daemon=True).start()

    def _echo(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            connection.sendall(f"{self.name}\n".encode())
            while data := connection.recv(65536):
                connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
        self._open.discard(connection)


@pytest.fixture
def named() -> Iterator[Callable[..., Named]]:
    """Starts a `Named` server."""
    with ExitStack() as stack:

        def start(name: str, host: str = "127.0.0.1", port: int = 0) -> Named:
            server = Named(name, host, port or free_port())
            stack.callback(server.close)
            return server

        yield start


def connect(port: int, host: str = "127.0.0.1") -> socket.socket:
    """Return a connection, as soon as a server listens on the port."""
    return eventually_sync(
        lambda: socket.create_connection((host, port), timeout=within(TIMEOUT)), f"{host}:{port} to listen", TIMEOUT
    )


def connect_unix(path: Path) -> socket.socket:
    """Return a connection, as soon as a server listens on the socket, whose file appears before."""

    def connected() -> socket.socket:
        client = socket.socket(socket.AF_UNIX)
        try:
            client.settimeout(within(TIMEOUT))
            client.connect(str(path))
        except OSError:
            client.close()
            raise
        return client

    return eventually_sync(connected, f"{path} to listen", TIMEOUT)


def name_at(port: int, host: str = "127.0.0.1", say: bytes = b"ping") -> str:
    """Who answers there: the name of a `Named` server that gave back what it was told, or nothing if nobody does."""
    with connect(port, host) as connection:
        connection.sendall(say)
        answer = b""
        while data := connection.recv(65536):
            answer += data
            # Not earlier: the ambassador takes a client that ends its request before a backend is found for gone.
            if answer.partition(b"\n")[2] == say:
                connection.shutdown(socket.SHUT_WR)
    name, _, rest = answer.partition(b"\n")
    if not answer:
        return ""
    assert rest == say, answer
    return name.decode()
