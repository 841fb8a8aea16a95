"""A server that answers as a test says, and a probe of it."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

from discovery.checks import Outcome, Probe
from discovery.testing import backend, within

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nIt works!"


class Server:
    """What a server was asked, and how many connections it has open."""

    def __init__(self) -> None:
        self.port = 0
        self.requests: list[bytes] = []
        self.connections = 0
        self.open = 0


@asynccontextmanager
async def serving(
    answer: bytes | Callable[[asyncio.StreamWriter], Awaitable[None]] = OK,
    tls: ssl.SSLContext | None = None,
    host: str = "127.0.0.1",
) -> AsyncIterator[Server]:
    """A server that gives every request the same answer; it closes no connection by itself."""
    it = Server()
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        it.connections += 1
        it.open += 1
        try:
            with suppress(OSError, asyncio.IncompleteReadError):
                while True:
                    it.requests.append(await reader.readuntil(b"\r\n\r\n"))
                    if callable(answer):
                        await answer(writer)
                    else:
                        writer.write(answer)
                        await writer.drain()
        finally:
            it.open -= 1
            writer.close()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(serve(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(accept, host, 0, ssl=tls)
    it.port = server.sockets[0].getsockname()[1]
    try:
        yield it
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def after(event: asyncio.Event, answer: bytes = OK) -> Callable[[asyncio.StreamWriter], Awaitable[None]]:
    """An answer for `serving` that waits for the event; the server then closes the connection."""

    async def write(writer: asyncio.StreamWriter) -> None:
        await event.wait()
        writer.write(answer)
        await writer.drain()
        writer.close()

    return write


async def get(port: int) -> bytes:
    """The reply to a request whose connection the client leaves open, until the server closes the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(b"GET / HTTP/1.1\r\nHost: web\r\n\r\n")
        return await reader.read()
    finally:
        writer.close()


async def refuses(port: int) -> bool:
    """True if nothing on this machine listens on the port."""
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except ConnectionRefusedError:
        return True
    writer.close()
    return False


async def ask(probe: Probe, port: int = 80, host: str = "127.0.0.1", timeout: float = 20) -> Outcome:
    async with asyncio.timeout(within(timeout)):
        return await probe(backend(host=host, port=port))
