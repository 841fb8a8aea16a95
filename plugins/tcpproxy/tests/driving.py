"""The TCP proxy's consumer driven as its runner drives it, with backends and clients: for tests on one loop."""

import asyncio
import json
import logging
import socket
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import structlog
from structlog.testing import LogCapture

from discovery import Backend, Context, Snapshot, Update, diff
from discovery.testing import backend, free_port, within
from discovery_tcpproxy.config import TcpProxyConfig
from discovery_tcpproxy.consumer import TcpProxyConsumer
from discovery_tcpproxy.timing import Timing


class Origin:
    """A backend that tells each client its name, and then sends back what it is sent."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.port = 0
        self.server: asyncio.Server | None = None

    def backend(self, **options: Any) -> Backend:
        return backend(id=self.name, port=self.port, **options)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            writer.write(self.name.encode() + b"\n")
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()


@asynccontextmanager
async def origins(*names: str) -> AsyncIterator[list[Origin]]:
    started = [Origin(name) for name in names]
    for each in started:
        each.server = await asyncio.start_server(each.serve, "127.0.0.1", 0)
        each.port = each.server.sockets[0].getsockname()[1]
    try:
        yield started
    finally:
        for each in started:
            assert each.server is not None
            each.server.close()


class Client:
    """A connection through the proxy."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def to(cls, address: str) -> "Client":
        if address.startswith("unix:"):
            return cls(*await asyncio.open_unix_connection(address.removeprefix("unix:")))
        host, _, port = address.rpartition(":")
        return cls(*await asyncio.open_connection(host.strip("[]"), int(port)))

    async def greeting(self, timeout: float = 20) -> str:
        """The name of the backend; empty if the connection was closed instead."""
        async with asyncio.timeout(within(timeout)):
            return (await self.reader.readline()).decode().strip()

    async def echoes(self, text: str = "hello") -> bool:
        """Whether the connection carries data both ways."""
        self.writer.write(f"{text}\n".encode())
        async with asyncio.timeout(within(20)):
            return await self.reader.readline() == f"{text}\n".encode()

    async def is_closed(self) -> bool:
        try:
            async with asyncio.timeout(within(20)):
                return await self.reader.read(1) == b""
        except ConnectionError:
            return True

    def close(self) -> None:
        self.writer.close()


async def reached(address: str) -> str:
    """The backend that a new connection reaches."""
    client = await Client.to(address)
    try:
        return await client.greeting()
    finally:
        client.close()


async def served(address: str) -> Client | None:
    """A new connection that has reached a backend; None if it was refused."""
    try:
        client = await Client.to(address)
        if await client.greeting():
            return client
        client.close()
    except ConnectionError:
        pass
    return None


QUICK = Timing(report=0.1)
"""Reports of workers ten times as often as in production: tests wait for them."""


class Driven:
    """A consumer, called as its runner calls it."""

    def __init__(
        self, run_dir: Path, inherited: tuple[socket.socket, ...] = (), timing: Timing = QUICK, **config: Any
    ) -> None:
        self.log = LogCapture()
        self.asked = 0
        log = structlog.wrap_logger(
            None, processors=[self.log], wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG)
        )

        def asked() -> None:
            self.asked += 1

        context = Context("tcp", run_dir, log, asked, inherited)
        self.consumer = TcpProxyConsumer(TcpProxyConfig.model_validate({"grace": 0, **config}), context, timing)
        self._applied: Snapshot | None = None
        self._revision = 0

    async def apply(self, *backends: Backend) -> None:
        self._revision += 1
        state = Snapshot.of(self._revision, backends)
        await self.consumer.apply(Update(state, self._applied, diff(self._applied, state)))
        self._applied = state

    async def reconfigure(self, **config: Any) -> None:
        assert await self.consumer.reconfigure(TcpProxyConfig.model_validate({"grace": 0, **config}))

    async def healthy(self) -> bool:
        return (await self.consumer.health()).ok

    async def inspect(self) -> dict[str, Any]:
        told: dict[str, Any] = json.loads(json.dumps(await self.consumer.inspect()))
        return told

    async def pids(self) -> list[int]:
        return [each["pid"] for each in (await self.inspect())["workers"]]

    async def has_workers(self, count: int) -> bool:
        return len(await self.pids()) == count

    def figure(self, name: str, **labels: str) -> float:
        """The sum of the samples of this name with these labels."""
        return sum(
            each.value
            for each in self.consumer.metrics()
            if each.name == name and labels.items() <= dict(each.labels).items()
        )

    def said(self, text: str) -> bool:
        return any(text in repr(entry) for entry in self.log.entries)


@asynccontextmanager
async def driving(
    *, inherited: tuple[socket.socket, ...] = (), timing: Timing = QUICK, **config: Any
) -> AsyncIterator[Driven]:
    with tempfile.TemporaryDirectory(prefix="tp-") as directory:
        driven = Driven(Path(directory), inherited, timing, **config)
        try:
            await driven.consumer.setup()
            yield driven
        finally:
            await driven.consumer.teardown()


def address() -> str:
    return f"127.0.0.1:{free_port()}"


def is_running(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()
