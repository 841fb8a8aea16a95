"""A relay of TCP connections on this machine, whose port refuses connections until there is a target."""

import asyncio
import socket
from contextlib import suppress

_CHUNK_BYTES = 1 << 16
"""Bytes that are copied at once: what a socket's buffer holds by default."""
_LOOPBACK = "127.0.0.1"


class Relay:
    """A port of the loopback interface. Connections are refused until `open`, and then relayed."""

    def __init__(self) -> None:
        """Reserve a free port. Raises OSError."""
        self._socket = socket.socket()
        try:
            self._socket.bind((_LOOPBACK, 0))
        except OSError:
            self._socket.close()
            raise
        self._server: asyncio.Server | None = None
        self._target = "", 0
        self._connections: set[asyncio.Task[None]] = set()

    @property
    def address(self) -> tuple[str, int]:
        """Address and port."""
        host, port = self._socket.getsockname()
        return str(host), int(port)

    @property
    def is_open(self) -> bool:
        """Report whether there is a target."""
        return self._server is not None

    async def open(self, host: str, port: int) -> None:
        """Accept connections from now on, and relay each to this address. Raises OSError."""
        self._target = host, port
        self._server = await asyncio.start_server(self._accepted, sock=self._socket)

    def close(self) -> None:
        """Refuse connections from now on. Connections that are open go on."""
        if self._server is not None:
            self._server.close()
        self._socket.close()

    async def finish(self) -> None:
        """Refuse connections from now on, and wait for the end of those that are open."""
        self.close()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def abort(self) -> None:
        """Refuse connections from now on, and end those that are open."""
        self.close()
        for each in self._connections:
            each.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(_relay(reader, writer, *self._target))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)


async def _relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str, port: int) -> None:
    ends = [writer]
    try:
        answers, requests = await asyncio.open_connection(host, port)
        ends.append(requests)
        async with asyncio.TaskGroup() as copies:
            copies.create_task(_copy(reader, requests))
            copies.create_task(_copy(answers, writer))
        for each in ends:
            each.close()
    except* OSError:  # an end has left: the other end learns of it by the reset
        pass
    finally:
        for each in ends:
            if not each.is_closing():
                each.transport.abort()


async def _copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    while data := await source.read(_CHUNK_BYTES):
        target.write(data)
        await target.drain()
    with suppress(OSError):
        target.write_eof()
