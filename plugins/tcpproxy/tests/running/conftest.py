"""Fixtures of tests with real programs as clients and servers."""

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from ambassadors import TIMEOUT, Directory, StartCommand, connect, directory, short_path, start_command

from discovery.testing import eventually_sync, free_port

from .programs import Ambassador, Spawn

__all__ = ["directory", "short_path", "start_command"]


@pytest.fixture
def spawn(short_path: Path) -> Iterator[Spawn]:
    """Starts a server that runs until the test ends, its words in a file."""
    with ExitStack() as stack:
        log = stack.enter_context((short_path / "servers.log").open("wb"))

        def start(*command: str | Path) -> subprocess.Popen[bytes]:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
            stack.callback(_end, process)
            return process

        yield start
        print((short_path / "servers.log").read_text(errors="replace"))


def _end(process: subprocess.Popen[bytes]) -> None:
    """With all that it has started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.fixture
def ambassador(start_command: StartCommand, directory: Directory) -> Ambassador:
    """Runs one for a server, and tells the port of either; both listen when it returns."""

    def start(server: int, *options: str, host: str = "127.0.0.1") -> int:
        eventually_sync(lambda: socket.create_connection((host, server)).close() is None, "the server", TIMEOUT)
        directory.put("service", server, host)
        port = free_port()
        start_command("ambassador", "service", str(port), "--registry", directory.url, *options)
        connect(port, host if "--listen" in options else "127.0.0.1").close()
        return port

    return start
