"""A driver that calls the consumer as the core does, and load from real clients."""

import asyncio
import logging
import re
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import structlog
from haproxy_web import Fetch
from structlog.testing import LogCapture

from discovery import Backend, Context, Snapshot, Update, diff
from discovery.testing import eventually, require_program, within
from discovery_haproxy.consumer import HAProxyConsumer
from discovery_haproxy.limits import LIMITS, Limits
from discovery_haproxy.options.config import HAProxyConfig
from discovery_haproxy.program.control_socket import ControlSocket, Processes
from discovery_haproxy.program.process import Process, find_processes, masters
from discovery_haproxy.runtime_api.drift import by_section, compare_all
from discovery_haproxy.runtime_api.planner import ServerKey
from discovery_haproxy.runtime_api.read_back import LiveServer, parse_states
from discovery_haproxy.text.configuration import parse


class ConsumerDriver:
    """Calls the methods of a consumer as the core does, and collects the consumer's log."""

    def __init__(self, run_dir: Path, state_dir: Path, *, limits: Limits = LIMITS, **config: Any) -> None:
        self.run_dir = run_dir
        self.state_dir = state_dir
        self.log = LogCapture()
        self.apply_requested = asyncio.Event()
        loop = asyncio.get_running_loop()
        log = structlog.wrap_logger(
            None, processors=[self.log], wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG)
        )

        def request_apply() -> None:
            loop.call_soon_threadsafe(self.apply_requested.set)

        context = Context("edge", run_dir, log, request_apply, state_dir=state_dir)
        self._config = config
        self._limits = limits
        self.consumer = HAProxyConsumer(self.configured(), context, limits)
        self._applied: Snapshot | None = None
        self._revision = 0

    async def apply(self, *backends: Backend, operator_request: bool = False) -> None:
        """Apply a snapshot of these backends."""
        self._revision += 1
        snapshot = Snapshot.of(self._revision, backends)
        changes = diff(self._applied, snapshot)
        await self.consumer.apply(Update(snapshot, self._applied, changes, operator_request=operator_request))
        self._applied = snapshot

    async def apply_again(self) -> None:
        """Apply the last snapshot again."""
        assert self._applied is not None
        await self.apply(*self._applied.backends())

    def replace_consumer(self) -> None:
        """Go on with another consumer of the same configuration, as the next daemon does."""
        self.consumer = HAProxyConsumer(self.consumer.config, self.consumer.context, self._limits)

    async def is_apply_requested(self) -> bool:
        """Report whether the consumer has requested an apply by now."""
        await asyncio.sleep(0)  # the request comes as if from another thread
        return self.apply_requested.is_set()

    async def preview(self, *backends: Backend, **config: Any) -> str:
        """Return the preview of another instance, which was never set up, for a snapshot of these backends."""
        snapshot = Snapshot.of(1, backends)
        another = HAProxyConsumer(self.configured(**config) if config else self.consumer.config, self.consumer.context)
        return await another.preview(Update(snapshot, None, diff(None, snapshot)))

    def configured(self, **config: Any) -> HAProxyConfig:
        """The configuration, with changes. A reload of an external HAProxy has the patience of the tests."""
        merged = {**self._config, **config}
        if merged.get("external") and not merged["external"].get("slots"):
            merged["external"] = {"timeout": within(10), **merged["external"]}
        return HAProxyConfig.model_validate(merged)

    @property
    def control(self) -> ControlSocket:
        """The master socket of our own HAProxy."""
        return ControlSocket(self.run_dir / "master.sock")

    async def processes(self) -> Processes:
        return await self.control.processes()

    def all_processes(self) -> list[Process]:
        """Every HAProxy process of this run directory."""
        return haproxy_processes(self.run_dir)

    @property
    def master(self) -> int:
        """Pid of the only master process."""
        found = masters(self.all_processes())
        assert len(found) == 1, found
        return found[0].pid

    def has_logged(self, text: str) -> bool:
        """Report whether a log entry contains the text."""
        return any(text in repr(entry) for entry in self.log.entries)


async def live_servers(driver: ConsumerDriver) -> dict[ServerKey, LiveServer]:
    """Return the servers of the running HAProxy by the names of section and server."""
    return parse_states(await driver.control.server_states())


async def assert_true(driver: ConsumerDriver) -> None:
    """Assert that the servers of the running HAProxy are those of the file, with all weights."""
    assert differences(driver.run_dir / "haproxy.cfg", await live_servers(driver)) == []


def differences(path: Path, servers: Mapping[ServerKey, LiveServer]) -> list[str]:
    """Return the differences of the live servers from the file. Removed servers may wait for their deletion."""
    configuration, live = parse(path.read_text()), by_section(servers)
    return [
        line
        for each in compare_all(configuration, None, live)
        for line in (*map(str, each.drifts), *(f"{'/'.join(key)} is {change}" for key, change in each.operator.items()))
    ]


@asynccontextmanager
async def same_worker(driver: ConsumerDriver) -> AsyncIterator[None]:
    """Assert that the block leaves the worker in place."""
    before = await driver.processes()
    yield
    assert await driver.processes() == before


async def reload_by_hand(driver: ConsumerDriver) -> None:
    """Reload HAProxy as another program does, and wait for the new worker."""
    before = (await driver.processes()).workers
    await driver.control.send_once("reload", within(10))

    async def is_reloaded() -> bool:
        workers = (await driver.processes()).workers
        return bool(workers) and workers != before

    await eventually(is_reloaded, "another worker")


def ways(driver: ConsumerDriver) -> dict[str, float]:
    """Return the number of changes by the way that they took."""
    return {each.labels["way"]: each.value for each in driver.consumer.metrics() if each.name == "changes"}


def haproxy_processes(run_dir: Path) -> list[Process]:
    """Every HAProxy process of a run directory."""
    return find_processes(f"{run_dir}/master.sock,mode,600")


Drive = Callable[..., AbstractAsyncContextManager[ConsumerDriver]]
"""Type of the fixture `drive`: takes the consumer's options, returns a context manager."""


class Load:
    """Load on a URL by `wrk`, until the load is stopped."""

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
        """Stop the load. Return the number of answered requests and the number of failed requests."""
        self._process.send_signal(signal.SIGINT)
        report, _ = self._process.communicate(timeout=within(20))
        requests = re.search(r"(\d+) requests in", report)
        assert requests is not None, report
        errors = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", report)
        refused = re.search(r"Non-2xx or 3xx responses: (\d+)", report)
        failed = sum(map(int, errors.groups())) if errors else 0
        return int(requests[1]), failed + (int(refused[1]) if refused else 0)

    def kill(self) -> None:
        """Kill `wrk`, if the load was not stopped."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()


StartLoad = Callable[..., Load]
"""Type of the fixture `load`: takes a URL and the options of `Load`."""


async def wait_until_served(fetch: Fetch, bind: str, origin: Backend) -> None:
    """Wait until a request to the bind is answered by this origin."""

    async def is_served() -> bool:
        return (await asyncio.to_thread(fetch, f"http://{bind}/")).body == str(origin.port)

    await eventually(is_served, f"{bind} to be answered by {origin.address}")


async def wait_until_socket_served(path: Path, origin: Backend) -> None:
    """Wait until a request through the Unix socket is answered by this origin."""

    async def is_served() -> bool:
        return await asyncio.to_thread(_body, path) == str(origin.port)

    await eventually(is_served, f"{path} to be answered by {origin.address}")


def _body(path: Path) -> str:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(within(5))
        client.connect(str(path))
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        with client.makefile() as answer:
            return answer.read().rpartition("\n")[2]


async def wait_until_healthy(driver: ConsumerDriver) -> None:
    """Wait until the consumer reports that HAProxy is healthy."""

    async def is_healthy() -> bool:
        return (await driver.consumer.health()).ok

    await eventually(is_healthy, "health")
