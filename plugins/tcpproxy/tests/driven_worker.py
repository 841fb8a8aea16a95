"""A worker process that a test drives in place of the daemon; its clients and backends are sockets of the test."""

import itertools
import resource
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from discovery.testing import eventually_sync, within
from discovery_tcpproxy import wire

from .sockets import is_reset

SETTINGS: dict[str, Any] = {
    "service": "web",
    "balance": "roundrobin",
    "hold": 10.0,
    "hold_connections": 1000,
    "connect_timeout": 3.0,
    "retries": 3,
    "idle_timeout": 0.0,
    "unacknowledged_timeout": 15.0,
    "drain": None,
    "max_connections": None,
    "max_connections_per_client": None,
    "allow": [],
    "deny": [],
    "accept_proxy": [],
    "accept_proxy_timeout": 3.0,
    "send_proxy": None,
    "access_log": False,
}

Meet = Callable[[], tuple[socket.socket, socket.socket]]
"""Opens a connection through the worker; returns the sockets of the client and of the backend."""
StartWorker = Callable[..., "Worker"]
"""Starts a worker; the arguments are those of `Worker`, without the stack."""
Reset = Callable[[socket.socket], None]
"""Closes a socket with an RST."""


class Worker:
    """A worker with the listener `web` on one socket."""

    def __init__(self, stack: ExitStack, descriptors: int | None = None, under: Sequence[str] = ()) -> None:
        """Start it; it may have so many `descriptors`; `under` is a command that runs it."""
        self.channel, theirs = socket.socketpair()
        self.events: list[dict[str, Any]] = []
        self._frames = wire.Reader(self.channel)
        self._stack = stack
        self._seq = 0
        self.address: Any = None
        limit = [f"--nofile={descriptors}:{descriptors}"] if descriptors else []
        with theirs:
            command = [
                *under,
                "prlimit",
                *limit,
                sys.executable,
                "-m",
                "discovery_tcpproxy.worker",
                str(theirs.fileno()),
            ]
            self.process = subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)
        stack.callback(self._end)
        self.channel.settimeout(within(20))

    def _end(self) -> None:
        self.channel.close()
        self.process.kill()
        self.process.wait(within(20))

    def ask(self, do: str, *descriptors: int, **message: Any) -> dict[str, Any]:
        """Send a command; the answer."""
        self._seq += 1
        wire.send(self.channel, {"do": do, "seq": self._seq, **message}, descriptors)
        return eventually_sync(self._answer, timeout=20)

    def _answer(self) -> dict[str, Any] | None:
        assert self._frames.read(), "the worker has ended"
        answer = None
        for frame, _ in self._frames.frames():
            if frame.get("re") == self._seq:
                answer = frame
            else:
                self.events.append(frame)
        return answer

    def listen(self, listener: socket.socket | None = None, **settings: Any) -> None:
        """Listen, on a socket of IPv4 unless there is one."""
        with listener or socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
            self.family, self.address = listener.family, listener.getsockname()
            told = {"web": {**SETTINGS, **settings, "sockets": {str(self.address): 0}}}
            assert self.ask("listen", listener.fileno(), listeners=told).keys() == {"re"}

    def configure(self, **settings: Any) -> None:
        """Change the settings, with the sockets as they are."""
        told = {"web": {**SETTINGS, **settings, "sockets": {str(self.address): None}}}
        assert self.ask("listen", listeners=told).keys() == {"re"}

    def serve(self, *backends: Any, service: str = "web") -> None:
        """Have these backends, listening sockets or ports."""
        ports = [each if isinstance(each, int) else each.getsockname()[1] for each in backends]
        records = [
            {"id": f"b{port}", "host": "127.0.0.1", "port": port, "weight": 1, "draining": False} for port in ports
        ]
        assert self.ask("backends", services={service: records}).keys() == {"re"}

    def connect(self) -> socket.socket:
        """A client."""
        sock = self._stack.enter_context(socket.socket(self.family))
        sock.settimeout(within(20))
        sock.connect(self.address)
        return sock

    def report(self) -> dict[str, Any]:
        """The figures of the listener."""
        figures: dict[str, Any] = self.ask("report")["listeners"]["web"]
        return figures

    def descriptors(self) -> int:
        """How many are open."""
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))

    def ticks(self) -> int:
        """Processor time used, in ticks."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])

    def leave_descriptors(self, count: int) -> None:
        """Let it open no more than so many from now on."""
        taken = {int(each.name) for each in Path(f"/proc/{self.process.pid}/fd").iterdir()}
        free = (number for number in itertools.count() if number not in taken)
        limit = next(itertools.islice(free, count, None))
        resource.prlimit(self.process.pid, resource.RLIMIT_NOFILE, (limit, limit))


def is_refused(worker: Worker) -> bool:
    """Return True if the worker resets a new client, which may happen while the client connects."""
    try:
        return is_reset(worker.connect())
    except ConnectionResetError:
        return True
