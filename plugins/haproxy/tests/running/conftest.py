"""The consumer as the core drives it, with real HAProxy, real clients, and origins that are another HAProxy."""

import asyncio
import logging
import os
import re
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import structlog
from structlog.testing import LogCapture

from discovery.model import Backend, Snapshot, diff
from discovery.plugin import Context, Update
from discovery.testing import backend, eventually_sync, free_port, require_program, within
from discovery_haproxy.config import HAProxyConfig
from discovery_haproxy.consumer import HAProxyConsumer
from discovery_haproxy.control_socket import ControlSocket, Processes
from discovery_haproxy.process import Process, find_processes, masters


class Driven:
    """A consumer, called as its runner calls it."""

    def __init__(self, run_dir: Path, **config: Any) -> None:
        self.run_dir = run_dir
        self.log = LogCapture()
        self.asked = asyncio.Event()
        loop = asyncio.get_running_loop()
        log = structlog.wrap_logger(
            None, processors=[self.log], wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG)
        )

        def asked() -> None:
            loop.call_soon_threadsafe(self.asked.set)

        context = Context("edge", run_dir, log, asked)
        self._config = config
        self.consumer = HAProxyConsumer(self.configured(), context)
        self._applied: Snapshot | None = None
        self._revision = 0

    async def apply(self, *backends: Backend) -> None:
        """Apply a snapshot of these backends."""
        self._revision += 1
        snapshot = Snapshot.of(self._revision, backends)
        await self.consumer.apply(Update(snapshot, self._applied, diff(self._applied, snapshot)))
        self._applied = snapshot

    async def again(self) -> None:
        """Apply the last snapshot once more."""
        assert self._applied is not None
        await self.apply(*self._applied.backends())

    async def preview(self, *backends: Backend) -> str:
        """What applying these would change, according to another instance that was never set up."""
        snapshot = Snapshot.of(1, backends)
        another = HAProxyConsumer(self.consumer.config, self.consumer.context)
        return await another.preview(Update(snapshot, None, diff(None, snapshot)))

    def configured(self, **config: Any) -> HAProxyConfig:
        """The configuration, with changes."""
        return HAProxyConfig.model_validate({**self._config, **config})

    @property
    def control(self) -> ControlSocket:
        """The master socket of our own HAProxy."""
        return ControlSocket(self.run_dir / "master.sock")

    async def processes(self) -> Processes:
        return await self.control.processes()

    def family(self) -> list[Process]:
        """Every HAProxy process of this run directory."""
        return family(self.run_dir)

    @property
    def master(self) -> int:
        """The pid of the one master there is."""
        found = masters(self.family())
        assert len(found) == 1, found
        return found[0].pid

    def said(self, text: str) -> bool:
        """Whether the log has such a line."""
        return any(text in repr(entry) for entry in self.log.entries)


def family(run_dir: Path) -> list[Process]:
    """Every HAProxy process of a run directory."""
    return find_processes(f"{run_dir}/master.sock,mode,600")


@pytest.fixture
def run_dir() -> Iterator[Path]:
    """A run directory, of a path short enough for sockets; whatever HAProxy is left in it is ended."""
    with tempfile.TemporaryDirectory(prefix="hx-") as directory:
        yield Path(directory)
        for process in family(Path(directory)):
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
        eventually_sync(lambda: not family(Path(directory)), "no HAProxy to be left")


Driving = Callable[..., AbstractAsyncContextManager[Driven]]


@pytest.fixture
def driving(run_dir: Path, haproxy: Path) -> Driving:
    """Sets a consumer up for a block, and tears it down after it; takes the configuration."""

    @asynccontextmanager
    async def driving(**config: Any) -> AsyncIterator[Driven]:
        driven = Driven(run_dir, **{"binary": haproxy, **config})
        try:
            await driven.consumer.setup()
            yield driven
        finally:
            await driven.consumer.teardown()

    return driving


@pytest.fixture(scope="session")
def origins() -> Iterator[tuple[Backend, ...]]:
    """Four backends of the service `web`, each of which answers with its own port."""
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
            yield tuple(backend(port=port) for port in ports)
        finally:
            process.kill()
            process.wait()


class Load:
    """wrk, at work until it is stopped."""

    def __init__(self, url: str, script: Path, *, keep_alive: bool = True) -> None:
        wrk = require_program("wrk", wheel=False)
        # A millisecond between requests leaves the machine to others, and lets a reload meet idle connections.
        script.write_text("function delay() return 1 end\n")
        headers = [] if keep_alive else ["-H", "Connection: close"]
        self._process = subprocess.Popen(
            [wrk, "-t1", "-c8", "-d100s", "--timeout", "5s", "-s", script, *headers, url],
            stdout=subprocess.PIPE,
            text=True,
        )

    def stop(self) -> tuple[int, int]:
        """How many requests were answered, and how many failed."""
        self._process.send_signal(signal.SIGINT)
        report, _ = self._process.communicate(timeout=within(20))
        requests = re.search(r"(\d+) requests in", report)
        assert requests is not None, report
        errors = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", report)
        refused = re.search(r"Non-2xx or 3xx responses: (\d+)", report)
        failed = sum(map(int, errors.groups())) if errors else 0
        return int(requests[1]), failed + (int(refused[1]) if refused else 0)

    def kill(self) -> None:
        """End it."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()


@pytest.fixture
def load(tmp_path: Path) -> Iterator[Callable[..., Load]]:
    """Starts load on a URL."""
    started: list[Load] = []

    def start(url: str, **options: bool) -> Load:
        started.append(Load(url, tmp_path / "delay.lua", **options))
        return started[-1]

    yield start
    for each in started:
        each.kill()
