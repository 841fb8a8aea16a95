"""A daemon that serves one backend by the plugin, and questions about its workers and its port."""

import socket
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, Protocol

from ambassadors import TIMEOUT
from daemons import Daemon

from discovery.testing import within


class Served(NamedTuple):
    """A daemon that serves the service `web`, and the port on 127.0.0.1."""

    port: int
    daemon: Daemon


class ServeWeb(Protocol):
    """Starts a daemon whose listener `web` has one backend, `one`."""

    def __call__(self, *assignments: str) -> Served:
        """Start with further assignments for `--set tcpproxy.`; return when the daemon is ready."""


def kill(daemon: Daemon) -> None:
    """Kill a daemon and wait for its end; its workers remain."""
    daemon.process.kill()
    daemon.process.wait(within(TIMEOUT))


def workers(daemon: Daemon) -> set[int]:
    """Return the process ids of the workers."""
    return {each["pid"] for each in daemon.get("/api/consumers/tcpproxy")[1]["workers"]}


def have_ended(pids: Iterable[int]) -> bool:
    """Return True if all processes have ended, even if a parent has not waited for them."""
    return not any(_runs(pid) for pid in pids)


def _runs(pid: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] not in "ZX"
    return False


def echoes(client: socket.socket, text: bytes = b"still here") -> bool:
    """Return True if the backend sends `text` back."""
    client.sendall(text)
    return client.recv(len(text), socket.MSG_WAITALL) == text


def is_refused(port: int, host: str = "127.0.0.1") -> bool:
    """Return True if the host refuses connections to the port."""
    with suppress(ConnectionRefusedError), socket.create_connection((host, port), timeout=within(TIMEOUT)):
        return False
    return True
