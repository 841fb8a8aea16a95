"""A worker that a test drives in place of the daemon, backends as processes, and clients that keep the worker busy."""

import asyncio
import os
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from discovery.testing import eventually_sync, free_port, within
from discovery_tcpproxy import wire
from discovery_tcpproxy.config import TcpProxyConfig
from discovery_tcpproxy.targets import settings

# Says its name, then what it is told, a line or until the end as it is asked; its sockets are as many as it likes.
_BACKEND = """
import asyncio, resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)

class Echo(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport
        transport.write(sys.argv[2].encode())
    def data_received(self, data):
        self.transport.write(data)
        if data.endswith(b"bye\\n"):
            self.transport.close()

async def main():
    server = await asyncio.get_running_loop().create_server(Echo, "127.0.0.1", int(sys.argv[1]), backlog=4096)
    await server.serve_forever()

asyncio.run(main())
"""


class Plane:
    """A worker process with one listener, and sockets through it."""

    def __init__(self, **listen: Any) -> None:
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self._listen = {"bind": self.address, **listen}
        self._channel, theirs = socket.socketpair()
        self._frames = wire.Reader(self._channel)
        self._seq = 0
        with theirs:
            command = [sys.executable, "-m", "discovery_tcpproxy.worker", str(theirs.fileno())]
            self.process = subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)
        self._channel.settimeout(within(20))
        config = TcpProxyConfig.model_validate({"listen": {"web": self._listen}})
        with socket.create_server(("127.0.0.1", self.port), backlog=4096) as listener:
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            listener.setblocking(False)
            told = {"web": {"sockets": {self.address: 0}, **settings(config, 0)["web"]}}
            self.tell({"do": "listen", "listeners": told}, listener.fileno())

    def tell(self, command: dict[str, Any], *descriptors: int) -> dict[str, Any]:
        """Send a command; returns the answer."""
        self._seq += 1
        wire.send(self._channel, {**command, "seq": self._seq}, descriptors)
        while True:
            for frame, _ in self._frames.frames():
                if frame.get("re") == self._seq:
                    assert "error" not in frame, frame
                    return frame
            assert self._frames.read(), "the worker has ended"

    def serve(self, *ports: int) -> None:
        """Have these ports of this machine as the backends."""
        backends = [
            {"id": f"127.0.0.1:{port}", "host": "127.0.0.1", "port": port, "weight": 1, "draining": False}
            for port in ports
        ]
        self.tell({"do": "backends", "services": {"web": backends}})

    def connect(self) -> socket.socket:
        """A client."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=within(60))

    def limit(self, more: int | None = None) -> None:
        """Let the worker have so many descriptors beyond those that it has; None: as many as the machine allows."""
        hard = resource.prlimit(self.process.pid, resource.RLIMIT_NOFILE)[1]
        soft = hard if more is None else max(self.descriptors()) + 1 + more
        resource.prlimit(self.process.pid, resource.RLIMIT_NOFILE, (soft, hard))

    def descriptors(self) -> set[int]:
        """The descriptors that the worker has open."""
        return {int(each.name) for each in Path(f"/proc/{self.process.pid}/fd").iterdir()}

    def memory(self) -> int:
        """Bytes of the worker that are resident."""
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * resource.getpagesize()

    def cpu(self) -> float:
        """CPU seconds that the worker has used."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def close(self) -> None:
        """End it."""
        self._channel.close()
        self.process.kill()
        self.process.wait()


class Origin:
    """A backend as a process: says `name`, repeats what it is told, and closes after a line that ends in `bye`."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.port = free_port()
        self._process = subprocess.Popen([sys.executable, "-c", _BACKEND, str(self.port), name])
        eventually_sync(self._listens, f"the backend {name} to listen")

    def kill(self) -> None:
        """End it with SIGKILL; none of its sockets is left when this returns."""
        self._process.kill()
        self._process.wait()

    def _listens(self) -> bool:
        with socket.create_connection(("127.0.0.1", self.port), timeout=within(5)):
            return True


@dataclass(frozen=True)
class Exchange:
    """One connection of a client: when it began and ended, who answered, and what was wrong if anything was."""

    begun: float
    ended: float
    by: str
    fault: str


@dataclass
class Clients:
    """Clients that connect, ask and close, over and over."""

    port: int
    done: list[Exchange] = field(default_factory=list)
    waiting: dict[int, float] = field(default_factory=dict)

    def since(self, moment: float) -> list[Exchange]:
        """The connections that began then or later."""
        return [each for each in self.done if each.begun >= moment]

    def failed(self) -> list[Exchange]:
        """Those that were not answered in full."""
        return [each for each in self.done if each.fault]

    async def rest(self) -> None:
        """Wait until no connection ends for half a second. Each look lets the clients run, however busy the machine."""
        ended = -1
        while ended != len(self.done):
            ended = len(self.done)
            for _ in range(10):
                await asyncio.sleep(0.05)

    async def run(self, number: int) -> None:
        """One client, until it is cancelled."""
        while True:
            self.waiting[number] = begun = time.monotonic()
            said, fault = b"", ""
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                try:
                    writer.write(b" bye\n")
                    while data := await reader.read(100):
                        said += data
                finally:
                    writer.close()
                    with suppress(OSError):
                        await writer.wait_closed()
            except OSError as error:
                fault = repr(error)
            if not said.endswith(b" bye\n"):
                fault = fault or f"only {said!r}"
            del self.waiting[number]
            self.done.append(Exchange(begun, time.monotonic(), said.decode().partition(" ")[0], fault))


StartPlane = Callable[..., Plane]
"""Starts a worker; the arguments are the options of its listener."""
StartOrigin = Callable[[str], Origin]
"""Starts a backend with a name."""
KeepBusy = Callable[..., AbstractAsyncContextManager[Clients]]
"""Keeps a port busy during a block: `busy(port, count)`."""
