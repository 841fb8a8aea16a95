"""Connections to the stats socket that end during a change: what is done is read back, and the rest is done."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from itertools import product
from pathlib import Path

import pytest
from haproxy_driver import ConsumerDriver, Drive, assert_true, live_servers, ways
from sampling import sampled

from discovery import Backend
from discovery.testing import backend, eventually

Origins = tuple[Backend, ...]
COMMANDS = (
    "add server web/s25",
    "enable health web/s25",
    "enable server web/s25",
    "set server web/old addr",
    "state maint",
)
"""Commands at which the connection ends."""
MOMENTS = [pytest.param(*each) for each in product(COMMANDS, (False, True))]


class Interrupter:
    """A proxy in front of a stats socket, which closes the connection at a command: `cuts` times, then never again.

    With `obeys`, HAProxy obeys the command first.
    """

    def __init__(self, socket: Path, command: str, cuts: int, *, obeys: bool) -> None:
        self._socket = socket
        self._command = command.encode()
        self.cuts = cuts
        self._obeys = obeys
        self.clients = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one client."""
        self.clients += 1
        upstream, commands = await asyncio.open_unix_connection(self._socket)
        answers = asyncio.create_task(self._answer(upstream, writer))
        with suppress(ConnectionError):
            while line := await reader.readline():
                cut = self._command in line and self.cuts > 0
                if not cut or self._obeys:
                    commands.write(line)
                    await commands.drain()
                if cut:
                    self.cuts -= 1
                    writer.transport.abort()
                    break
        commands.write_eof()  # HAProxy obeys what it has got, and closes
        await answers
        commands.close()
        writer.close()

    async def _answer(self, upstream: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await upstream.read(1 << 16):
                if not writer.transport.is_closing():
                    writer.write(data)
                    await writer.drain()


@asynccontextmanager
async def interrupted(
    driver: ConsumerDriver, command: str, cuts: int = 1, *, obeys: bool = False
) -> AsyncIterator[Interrupter]:
    """Put an interrupter before the driver's stats socket.

    The consumer may have a connection that stands. The consumer replaces this connection every second.
    """
    socket = driver.run_dir / "stats.sock"
    moved = socket.rename(driver.run_dir / "moved.sock")
    interrupter = Interrupter(moved, command, cuts, obeys=obeys)
    async with await asyncio.start_unix_server(interrupter.serve, socket, limit=1 << 20):
        # The first client may be a verification, beside a connection that has stood since before.
        await eventually(lambda: interrupter.clients > 1)
        yield interrupter
    moved.rename(socket)


@pytest.mark.parametrize(("command", "obeys"), sampled(MOMENTS, 3))
async def test_a_connection_that_ends_amid_a_change_is_followed_by_the_rest_without_a_reload(
    drive: Drive, origins: Origins, bind: str, command: str, obeys: bool
) -> None:
    old = backend(id="old", port=origins[0].port)
    async with drive(services={"web": {"bind": bind}}) as driver:
        await driver.apply(old, origins[1])
        before = (await driver.processes()).workers
        new = [backend(id=f"s{number}", port=origins[0].port) for number in range(40)]
        async with interrupted(driver, command, obeys=obeys) as interrupter:
            await driver.apply(backend(id="old", port=origins[2].port), *new)
            assert interrupter.cuts == 0
        assert ways(driver) == {"runtime": 1, "reload": 0}
        assert (await driver.processes()).workers == before
        await assert_true(driver)
        live = {name: row for (_, name), row in (await live_servers(driver)).items() if not row.removed}
        assert live.keys() == {"old", *(each.id for each in new)}
        assert all(row.up for row in live.values())


async def test_connections_that_end_while_servers_are_read_back_are_opened_again(
    drive: Drive, origins: Origins, bind: str
) -> None:
    async with drive(services={"web": {"bind": bind}}) as driver:
        await driver.apply(origins[0])
        async with interrupted(driver, "show servers state", cuts=3):
            await driver.apply(*origins[:2])
        assert ways(driver) == {"runtime": 1, "reload": 0}
        await assert_true(driver)


async def test_connections_that_end_again_and_again_are_followed_by_a_reload(
    drive: Drive, origins: Origins, bind: str
) -> None:
    async with drive(services={"web": {"bind": bind}}) as driver:
        await driver.apply(origins[0])
        async with interrupted(driver, "add server", cuts=100):
            await driver.apply(*origins[:2])
        assert ways(driver) == {"runtime": 0, "reload": 1}
        await assert_true(driver)
