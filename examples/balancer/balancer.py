"""A small TCP load balancer that reads its configuration again at SIGHUP: `balancer.py CONFIGURATION PID_FILE PORT`.

Each line of the configuration is `HOST:PORT WEIGHT`. The balancer stands for any program of that kind: its consumer is
`discovery_balancer.py`.
"""

import asyncio
import itertools
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from discovery import split_host_port


class Balancer:
    """Connects each client to the next backend."""

    def __init__(self, path: Path) -> None:
        """Read the configuration, if there is any yet."""
        self._path = path
        self._backends: Iterator[str] = iter(())
        self.read()

    def read(self) -> None:
        """Read the configuration; a file that is not there has no backends."""
        lines = self._path.read_text().splitlines() if self._path.exists() else []
        turns = [address for address, weight in map(str.split, lines) for _ in range(int(weight))]
        self._backends = itertools.cycle(turns)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass the bytes of a client to a backend, and back."""
        with suppress(OSError, StopIteration):
            host, port = split_host_port(next(self._backends))
            from_backend, to_backend = await asyncio.open_connection(host, port)
            await asyncio.gather(_copy(reader, to_backend), _copy(from_backend, writer))
        writer.close()


async def _copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await source.read(65536):
            target.write(data)
            await target.drain()
    target.close()


async def main(configuration: str, pid_file: str, port: str) -> None:
    """Serve until the process is killed."""
    balancer = Balancer(Path(configuration))
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, balancer.read)
    server = await asyncio.start_server(balancer.serve, "127.0.0.1", int(port))
    Path(pid_file).write_text(f"{os.getpid()}\n")
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
