"""A stats socket that answers as a test says, for tests of connections to HAProxy."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path


class StatsSocket:
    """A stats socket that answers nothing but prompts. `sizes` are the numbers of commands between two pauses."""

    def __init__(self) -> None:
        self.commands: list[str] = []
        self.sizes: list[int] = []
        self.answers: dict[str, str] = {}
        self.ends_at = ""
        self.open = 0
        """Connections of this moment."""
        self._writers: list[asyncio.StreamWriter] = []

    def close(self) -> None:
        """Close the connections of this moment."""
        for writer in self._writers:
            writer.close()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer a batch when no further command of the batch comes."""
        self._writers.append(writer)
        self.open += 1
        batch: list[str] = []
        while line := await reader.readline():
            batch.append(line.decode().strip())
            if reader._buffer:  # type: ignore[attr-defined] # more of this batch has arrived
                continue
            asked = [each for each in batch if each != "prompt"]
            if asked:
                self.sizes.append(len(asked))
                self.commands += asked
            if self.ends_at in batch:
                break
            writer.write("".join(f"{self.answers.get(each, '')}\n> " for each in batch).encode())
            batch = []
        self.open -= 1
        writer.close()


@asynccontextmanager
async def listening(path: Path) -> AsyncIterator[StatsSocket]:
    """Serve a socket."""
    socket = StatsSocket()
    async with await asyncio.start_unix_server(socket.serve, path):
        yield socket
