"""A listener of a worker, without the worker around it."""

import socket
import time
from collections.abc import Callable

from discovery.testing import within
from discovery_tcpproxy.config import TcpProxyConfig
from discovery_tcpproxy.targets import settings
from discovery_tcpproxy.worker.buffer import ReadBuffer
from discovery_tcpproxy.worker.context import WorkerContext
from discovery_tcpproxy.worker.descriptors import Descriptors
from discovery_tcpproxy.worker.loop import Loop
from discovery_tcpproxy.worker.proxy import ListenerProxy
from discovery_tcpproxy.worker.stream import Connection

LISTEN = {"bind": "127.0.0.1:1", "hold": 60, "hold_connections": 10, "connect_timeout": 60}
SETTINGS = settings(TcpProxyConfig.model_validate({"listen": {"web": LISTEN}}), 0)["web"]
Arrived = tuple[socket.socket, Connection]
"""A client that has come, and its connection."""


class Alone:
    """A listener without a worker around it."""

    def __init__(self, backend: tuple[str, int], **other: object) -> None:
        """One for the backend."""

        def broken(error: Exception) -> None:
            raise error

        self.loop = Loop(broken)
        shared = WorkerContext(self.loop, ReadBuffer(), Descriptors(self.loop, nothing, nothing), nothing, nothing)
        self.proxy = ListenerProxy("web", shared)
        self.proxy.configure({**SETTINGS, **other})
        self.proxy.update([record(backend)])

    def arrive(self) -> Arrived:
        """A client that has come, and its connection."""
        with socket.create_server(("127.0.0.1", 0)) as clients:
            client = socket.create_connection(clients.getsockname())
            accepted, address = clients.accept()
        accepted.setblocking(False)
        before = set(self.proxy.connections)
        self.proxy.accepted(accepted.detach(), address)
        (connection,) = self.proxy.connections - before
        return client, connection

    def run(self, condition: Callable[[], bool]) -> None:
        """Serve until the condition holds; AssertionError if it never does."""
        deadline = time.monotonic() + within(10)

        def look() -> None:
            if condition() or time.monotonic() > deadline:
                self.loop.stop()
            else:
                self.loop.call_later(0.01, look)

        self.loop.call_later(0, look)
        self.loop.run()
        assert condition()


def record(backend: tuple[str, int]) -> dict[str, object]:
    """What the daemon tells of a backend."""
    return {"id": "a", "host": backend[0], "port": backend[1], "weight": 1, "draining": False}


def nothing(*_: object) -> None:
    """Do it."""
