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


async def ask(probe: Probe, port: int = 80, host: str = "127.0.0.1", timeout: float = 20) -> Outcome:
    async with asyncio.timeout(within(timeout)):
        return await probe(backend(host=host, port=port))
