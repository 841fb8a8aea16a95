"""The consumer as its runner drives it, on the event loop of a test, and clients."""

import asyncio
import socket
import tempfile
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import dns.asyncquery
import dns.message
import structlog

from discovery import Backend, Context, Snapshot, Update, diff, split_host_port
from discovery.testing import free_port, snapshot, within
from discovery_dns.consumer import DnsConsumer
from discovery_dns.limits import LIMITS, Limits

from .asking import Known, query


class Driven:
    """A consumer with the calls of its runner."""

    def __init__(
        self, run_dir: Path, inherited: Iterable[socket.socket] = (), limits: Limits = LIMITS, **options: Any
    ) -> None:
        self.config = DnsConsumer.Config.model_validate(options)
        log = structlog.get_logger("test")
        context = Context("test", run_dir, log, inherited=tuple(inherited))
        self.consumer = DnsConsumer(self.config, context, limits)  # type: ignore[arg-type]
        self.applied: Snapshot | None = None

    async def apply(self, *backends: Backend, known: Known | None = None, revision: int = 1) -> None:
        """Apply the snapshot of these backends."""
        state = snapshot(*backends, revision=revision)
        await self.consumer.apply(Update(state, self.applied, diff(self.applied, state), known))
        self.applied = state

    def figure(self, name: str) -> float:
        """The sum of the samples of this name."""
        return sum(each.value for each in self.consumer.metrics() if each.name == name)


@asynccontextmanager
async def driving(
    inherited: Iterable[socket.socket] = (), limits: Limits = LIMITS, **options: Any
) -> AsyncIterator[Driven]:
    """A consumer after its setup."""
    with tempfile.TemporaryDirectory(prefix="dns-") as directory:
        driven = Driven(Path(directory), inherited, limits, **options)
        try:
            await driven.consumer.setup()
            yield driven
        finally:
            await driven.consumer.teardown()


def address() -> str:
    """An address to listen on."""
    return f"127.0.0.1:{free_port()}"


async def udp(bind: str, name: str, kind: str = "A", **options: Any) -> dns.message.Message:
    """The answer over UDP."""
    host, port = split_host_port(bind)
    return await dns.asyncquery.udp(query(name, kind, **options), host, port=port, timeout=within(10))


async def tcp(bind: str, name: str, kind: str = "A", **options: Any) -> dns.message.Message:
    """The answer over TCP."""
    host, port = split_host_port(bind)
    return await dns.asyncquery.tcp(query(name, kind, **options), host, port=port, timeout=within(10))


class UdpClient:
    """A client that sends at once, and takes the answer later."""

    def __init__(self, bind: str) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.setblocking(False)
        self.socket.connect(split_host_port(bind))

    def send(self, *packets: bytes) -> None:
        """Send packets: when this returns, they are in the queue of the server's socket."""
        for packet in packets:
            self.socket.send(packet)

    async def answer(self) -> dns.message.Message:
        """The next answer."""
        async with asyncio.timeout(within(10)):
            return dns.message.from_wire(await asyncio.get_running_loop().sock_recv(self.socket, 65535))

    def close(self) -> None:
        """Close the socket."""
        self.socket.close()


class TcpClient:
    """A TCP connection that stays open."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def to(cls, bind: str) -> "TcpClient":
        """Connect."""
        return cls(*await asyncio.open_connection(*split_host_port(bind)))

    def send(self, *packets: bytes) -> None:
        """Send messages at once, each with its length."""
        self.writer.write(b"".join(len(each).to_bytes(2, "big") + each for each in packets))

    async def answer(self) -> dns.message.Message:
        """The next answer."""
        async with asyncio.timeout(within(10)):
            length = int.from_bytes(await self.reader.readexactly(2), "big")
            return dns.message.from_wire(await self.reader.readexactly(length))

    async def is_closed(self) -> bool:
        """Wait until the server closes the connection; False if an answer comes first."""
        async with asyncio.timeout(within(10)):
            try:
                return await self.reader.read(1) == b""
            except ConnectionError:
                return True

    def close(self) -> None:
        """Close the connection."""
        self.writer.close()
