"""Checks of backends that are named by host name, while no name server answers."""

import json
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from daemons import DISCOVERY
from naming import Machine, machine

from discovery.testing import eventually_sync, within

pytestmark = pytest.mark.warm

__all__ = ["machine"]

TIMEOUT = 60.0


class Server:
    """Takes connections at a loopback address, and counts them."""

    def __init__(self) -> None:
        self.taken = 0
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self._socket.settimeout(0.2)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._socket.close()
        self._thread.join(within(5))

    def _serve(self) -> None:
        while self._socket.fileno() >= 0:
            with suppress(OSError):
                client, _ = self._socket.accept()
                client.close()
                self.taken += 1


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


def test_a_living_backend_is_not_withdrawn_because_no_name_server_answers(
    file_registry: tuple[str, Callable[[str, str], None]], machine: Machine, server: Server, tmp_path: Path
) -> None:
    """Point 8: the last answer stands for checks, too; a name that does not exist any more is a failure."""
    machine.server.means = {"db.test": ["127.0.0.1"]}
    url, _ = file_registry
    record = tmp_path / "registry" / "db" / "a"
    command = [*machine.under, *DISCOVERY, "register", "db", f"db.test:{server.port}", "--id", "a", "--registry", url]
    command += ["--run-dir", str(tmp_path / "run"), "--check", "tcp", "--check-interval", "0.2"]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    try:
        eventually_sync(record.exists, "the backend to be registered", TIMEOUT)
        machine.server.dead = True
        asked, taken = len(machine.server.asked), server.taken
        eventually_sync(lambda: len(machine.server.asked) > asked + 5, "lookups without an answer", TIMEOUT)
        eventually_sync(lambda: server.taken > taken + 5, "checks that reach the backend nevertheless", TIMEOUT)
        assert json.loads(record.read_text())["host"] == "db.test"
        machine.server.means, machine.server.dead = {}, False
        eventually_sync(lambda: not record.exists(), "a name that does not exist to be a failure", TIMEOUT)
        process.send_signal(signal.SIGTERM)
        assert process.wait(within(TIMEOUT)) == 0
    finally:
        process.kill()
        process.wait()
