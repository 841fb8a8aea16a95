"""Fixtures of the tests that run the consumer with real HAProxy, real clients, and origins that are another HAProxy."""

import os
import signal
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from external_haproxy import EMPTY, ExternalProcess, run_external
from haproxy_driver import ConsumerDriver, Drive, Load, StartLoad, haproxy_processes

from discovery import Backend
from discovery.testing import backend, eventually_sync, free_port, require_program


@pytest.fixture
def run_dir() -> Iterator[Path]:
    """Return a run directory with a path short enough for sockets. Kill remaining HAProxy processes afterwards."""
    with tempfile.TemporaryDirectory(prefix="hx-") as directory:
        yield Path(directory)
        for process in haproxy_processes(Path(directory)):
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
        eventually_sync(lambda: not haproxy_processes(Path(directory)), "no HAProxy to be left")


@pytest.fixture
def drive(run_dir: Path, haproxy: Path, tmp_path: Path) -> Drive:
    """Return a function that sets a consumer up for a block; the function takes the configuration."""

    @asynccontextmanager
    async def drive(**config: Any) -> AsyncIterator[ConsumerDriver]:
        driver = ConsumerDriver(run_dir, tmp_path / "state", **{"binary": haproxy, **config})
        try:
            await driver.consumer.setup()
            yield driver
        finally:
            await driver.consumer.teardown()

    return drive


@pytest.fixture(scope="session")
def origins() -> Iterator[tuple[Backend, ...]]:
    """Return four backends of the service `web`. Each answers with its port."""
    binary = require_program("haproxy")
    ports = [free_port() for _ in range(4)]
    text = (
        "global\n  hard-stop-after 1s\n"
        "defaults\n  mode http\n  timeout client 30s\n  timeout connect 1s\n  timeout server 30s\n"
        "frontend origins\n"
        + "".join(f"  bind 127.0.0.1:{port}\n" for port in ports)
        + '  http-request return status 200 content-type text/plain lf-string "%[dst_port]"\n'
    )
    with tempfile.TemporaryDirectory(prefix="hx-") as directory:
        config = Path(directory, "origins.cfg")
        config.write_text(text)
        process = subprocess.Popen([binary, "-db", "-f", config], stderr=subprocess.DEVNULL)
        try:
            # Before that HAProxy would refuse connections: requests fail, and health checks take the origins out.
            eventually_sync(lambda: all(map(_accepts, ports)), "the origins to listen")
            yield tuple(backend(port=port) for port in ports)
        finally:
            process.kill()
            process.wait()


def _accepts(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def load(tmp_path: Path) -> Iterator[StartLoad]:
    """Return a function that starts load on a URL."""
    started: list[Load] = []

    def start(url: str, **options: bool) -> Load:
        started.append(Load(url, tmp_path / "delay.lua", **options))
        return started[-1]

    yield start
    for each in started:
        each.kill()


@pytest.fixture
def bind() -> str:
    """Return a free address for HAProxy."""
    return f"127.0.0.1:{free_port()}"


@pytest.fixture
def external(haproxy: Path, run_dir: Path) -> Iterator[ExternalProcess]:
    """Run an external HAProxy with a file that has a stats socket and no frontend."""
    config = run_dir / "etc.cfg"
    config.write_text(EMPTY.format(stats=run_dir / "stats.sock"))
    config.chmod(0o640)
    with run_external(haproxy, run_dir) as external:
        yield external
