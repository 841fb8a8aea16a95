"""A configuration that HAProxy refuses to load is not loaded again: each attempt stops all listeners for 2 s."""

import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from daemons import RecordFiles, Starter

from discovery.testing import eventually_sync, free_port

pytestmark = pytest.mark.warm

TIMEOUT = 60.0
REFUSED = "service 'web' refused, served with its last accepted options"


@dataclass
class Clients:
    """Numbers of connections to an address that were accepted and that were not."""

    accepted: int = 0
    refused: int = 0


@contextmanager
def connecting(port: int) -> Iterator[Clients]:
    """Connect to the port every few milliseconds until the block ends."""
    clients, stop = Clients(), threading.Event()

    def connect() -> None:
        while not stop.is_set():
            with socket.socket() as client:
                if client.connect_ex(("127.0.0.1", port)) == 0:
                    clients.accepted += 1
                else:
                    clients.refused += 1
            time.sleep(0.005)

    thread = threading.Thread(target=connect)
    thread.start()
    try:
        yield clients
    finally:
        stop.set()
        thread.join()


def accepts(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


@dataclass
class Edge:
    """A daemon whose HAProxy listens at `port`, and the port of another program."""

    file: Path
    binary: Path
    port: int
    busy_port: int

    def configure(self, service: str = "") -> None:
        """Write the configuration, with these lines for the service. The daemon reads a changed file at once."""
        self.file.write_text(
            '[consumers.edge]\nplugin = "haproxy"\n'
            f'binary = "{self.binary}"\nglobal_lines = "setenv BUSY {self.busy_port}"\n'
            f'[consumers.edge.services.web]\nbind = "127.0.0.1:{self.port}"\n{service}\n'
        )


def test_a_refused_configuration_is_loaded_again_only_when_an_operator_asks(
    tmp_path: Path, haproxy: Path, start_daemon: Starter, file_registry: RecordFiles
) -> None:
    url, write = file_registry
    with socket.create_server(("127.0.0.1", 0)) as busy:
        edge = Edge(tmp_path / "discovery.toml", haproxy, free_port(), busy.getsockname()[1])
        edge.configure()
        daemon = start_daemon("--registry", url, "--config", str(edge.file))
        eventually_sync(lambda: accepts(edge.port), "HAProxy to listen", timeout=TIMEOUT)
        # The probe cannot judge an address with a variable in it, and `haproxy -c` binds nothing.
        edge.configure('frontend_lines = "bind \\"127.0.0.1:${BUSY}\\""')
        eventually_sync(lambda: REFUSED in daemon.log, "the reload to be refused", timeout=TIMEOUT)
        eventually_sync(lambda: accepts(edge.port), "HAProxy to listen again", timeout=TIMEOUT)
        with connecting(edge.port) as clients:
            for number in (1, 2, 3):
                write(f"web/{number}", f"127.0.0.1:{free_port()}")
                mapping = f"-> {number} backend"
                eventually_sync(lambda line=mapping: line in daemon.log, "the registry to be followed", timeout=TIMEOUT)
            eventually_sync(lambda: clients.accepted > 1000, "connections for seconds", timeout=TIMEOUT)
        assert clients.refused == 0
        assert daemon.log.count("Paused frontend") == 1
        eventually_sync(lambda: "cannot bind" in str(daemon.get("/healthz")[1]), "the reason", timeout=TIMEOUT)
        refused = daemon.get("/api/consumers/edge")[1]["refused"]
        assert [each["part"] for each in refused] == ["service 'web'"]
        daemon.process.send_signal(signal.SIGHUP)
        eventually_sync(lambda: daemon.log.count("Paused frontend") == 2, "another attempt", timeout=TIMEOUT)
        eventually_sync(lambda: accepts(edge.port), "HAProxy to listen again", timeout=TIMEOUT)
    daemon.process.send_signal(signal.SIGHUP)
    eventually_sync(lambda: accepts(edge.busy_port), "the reload to succeed", timeout=TIMEOUT)
