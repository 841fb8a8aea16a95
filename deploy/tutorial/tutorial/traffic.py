"""A paced load of HTTP requests: each begins when it is due, whether or not those before have been answered.

A program of its own, on the standard library alone, which runs in the network of the machines. It writes a line of JSON
for each finished request: when it began and ended (CLOCK_MONOTONIC, which all processes share), who answered, and why
it failed. SIGTERM ends the load; requests that have begun are finished first.
"""

import asyncio
import json
import signal
import sys
import time
from contextlib import suppress
from typing import NamedTuple, TextIO

LIMIT = 90.0
"""Seconds after which a request without an answer has failed."""


class Connection(NamedTuple):
    """An open connection to the server."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter


class Load:
    """Requests to one server, `rate` each second. A connection is used again for as long as the server keeps it."""

    def __init__(self, host: str, port: int, rate: float, output: TextIO) -> None:
        """Prepare; nothing is sent before `run`."""
        self._host, self._port, self._rate, self._output = host, port, rate, output
        self._idle: list[Connection] = []
        self._running: set[asyncio.Task[None]] = set()
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Begin no further request."""
        self._stopping.set()

    async def run(self) -> None:
        """Send requests until `stop`, and return once each has ended."""
        due = time.monotonic()
        while not self._stopping.is_set():
            task = asyncio.create_task(self._request())
            self._running.add(task)
            task.add_done_callback(self._running.discard)
            due += 1 / self._rate
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), max(0.0, due - time.monotonic()))
        await asyncio.gather(*self._running)

    async def _request(self) -> None:
        begun, by, failure = time.monotonic(), "", ""
        try:
            async with asyncio.timeout(LIMIT):
                by = await self._ask()
        except TimeoutError:
            failure = f"no answer in {LIMIT:g} s"
        except (OSError, EOFError, ValueError) as error:
            failure = str(error) or type(error).__name__
        print(json.dumps([begun, time.monotonic(), by, failure]), file=self._output, flush=True)

    async def _ask(self) -> str:
        """Send a request, and return the name of the container that answers. Raises OSError, EOFError, ValueError."""
        connection = self._usable()
        if connection is None:
            connection = Connection(*await asyncio.open_connection(self._host, self._port))
        try:
            connection.writer.write(f"GET / HTTP/1.1\r\nHost: {self._host}\r\n\r\n".encode())
            head = (await connection.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            fields = dict(line.lower().split(": ", 1) for line in head[1:] if ": " in line)
            await connection.reader.readexactly(int(fields.get("content-length", "0")))
        except BaseException:  # a cancellation, too, must close the connection; raised again
            connection.writer.close()
            raise
        status = head[0].split(" ", 2)[1]
        if status != "200" or fields.get("connection") == "close":
            connection.writer.close()
        else:
            self._idle.append(connection)
        if status != "200":
            raise ValueError(f"status {status}")
        return fields.get("x-container", "?")

    def _usable(self) -> Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if not connection.reader.at_eof():
                return connection
            connection.writer.close()
        return None


async def main(host: str, port: str, rate: str, path: str) -> None:
    """Send the load until SIGTERM, and write the lines to the file at `path`."""
    with open(path, "w", encoding="utf-8") as output:  # noqa: ASYNC230, PTH123 - a local file, before the load
        load = Load(host, int(port), float(rate), output)
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, load.stop)
        await load.run()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:5]))
