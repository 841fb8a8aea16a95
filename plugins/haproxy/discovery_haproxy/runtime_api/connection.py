"""A connection to the stats socket of HAProxy's worker, for a sequence of commands.

The connection is in `prompt` mode: each answer ends with a prompt, so that a lost command is noticed. A connection that
lasts would keep an old worker alive, so each plan has a connection of its own.
"""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

from discovery_haproxy.runtime_api.commands import Command

_PROMPT = b"\n> "
_WAITING = re.compile(r"^(?:\+ )+")
"""HAProxy's prompts for the lines of a payload, before the answer."""
_ANSWER_SECONDS = 5.0
"""Seconds for an answer: a worker that loads 10,000 backends needs one."""
_BUFFER_BYTES = 1 << 26
"""Bytes of the largest answer: the states of some 600,000 servers."""
_FIRST_BATCH = 8
"""Commands of the first batch, before their cost is known: 18 ms of additions to a section of 10,000 servers."""
_MOST_BATCH = 256
"""Commands of the largest batch, so that few answers are buffered."""
_FAST_SECONDS = 0.005
"""Seconds of a batch below which the next batch is twice as large."""
_SLOW_SECONDS = 0.02
"""Seconds of a batch above which the next batch is half as large. Requests wait for the batch, and never for 50 ms."""
_QUOTED_CHARACTERS = 200
"""Characters of an unexpected answer in an error message, which is one line."""


class RuntimeApiError(Exception):
    """HAProxy refuses a command, or the outcome of commands is unknown."""


class Worker(NamedTuple):
    """A worker process, as `show info` describes the worker."""

    pid: int
    version: tuple[int, ...]
    description: str


class Connection:
    """A connection in `prompt` mode."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Store the streams; `connect` opens a connection."""
        self._reader = reader
        self._writer = writer

    async def ask(self, command: str) -> str:
        """Send a command and return the answer. Raises RuntimeApiError."""
        [answer] = await self._ask([command])
        return answer

    async def ask_all(self, commands: Sequence[str]) -> list[str]:
        """Send commands at once and return the answers. Raises RuntimeApiError."""
        return await self._ask(commands)

    async def worker(self) -> Worker:
        """Return the worker that answers. Raises RuntimeApiError if the worker is stopping."""
        info = dict(line.split(": ", 1) for line in (await self.ask("show info")).splitlines() if ": " in line)
        if info.get("Stopping") != "0" or not info.get("Pid", "").isdecimal():
            raise RuntimeApiError("the worker that answers is being replaced")
        version = info.get("Version", "").split("-")[0].split(".")
        return Worker(
            int(info["Pid"]),
            tuple(int(part) for part in version if part.isdecimal()),
            info.get("description", ""),
        )

    async def execute(self, groups: Sequence[Sequence[Command]]) -> None:
        """Execute groups of commands, the commands of a group at once, with pauses for traffic between batches.

        Raises RuntimeApiError for the first answer that is not the expected answer.
        """
        rest, size = list(groups), _FIRST_BATCH
        rest.reverse()
        while rest:
            batch: list[Command] = []
            while rest and (not batch or len(batch) + len(rest[-1]) <= size):
                batch += rest.pop()
            started = time.monotonic()
            answers = await self._ask([command.lines for command in batch])
            seconds = time.monotonic() - started
            for command, answer in zip(batch, answers, strict=True):
                _check(command, answer)
            if seconds > _SLOW_SECONDS:
                size = max(size // 2, 1)
            elif seconds < _FAST_SECONDS:
                size = min(size * 2, _MOST_BATCH)

    async def obey(self, command: Command) -> str:
        """Execute a command and return the answer. Raises RuntimeApiError for an unexpected answer."""
        answer = await self.ask(command.lines)
        _check(command, answer)
        return answer

    async def _ask(self, commands: Sequence[str]) -> list[str]:
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                self._writer.write("".join(f"{command}\n" for command in commands).encode())
                return [
                    (await self._reader.readuntil(_PROMPT))[: -len(_PROMPT)].decode(errors="replace") for _ in commands
                ]
        except (OSError, EOFError, TimeoutError, asyncio.LimitOverrunError) as error:
            raise RuntimeApiError(f"HAProxy has not answered a command: {str(error) or type(error).__name__}") from None


@asynccontextmanager
async def connect(stats_socket: Path) -> AsyncIterator[Connection]:
    """Open a connection to the worker that listens on the stats socket. Raises RuntimeApiError."""
    try:
        async with asyncio.timeout(_ANSWER_SECONDS):
            reader, writer = await asyncio.open_unix_connection(stats_socket, limit=_BUFFER_BYTES)
    except (OSError, TimeoutError) as error:
        raise RuntimeApiError(f"{stats_socket} cannot be connected to: {str(error) or 'no answer'}") from None
    try:
        connection = Connection(reader, writer)
        await connection.ask("prompt")
        yield connection
    finally:
        # HAProxy ends its side at once when this side has ended.
        writer.close()


def _check(command: Command, answer: str) -> None:
    if not command.success.fullmatch(answer):
        raise RuntimeApiError(f"HAProxy refuses {_quoted(command.text)}: {_quoted(_WAITING.sub('', answer))}")


def _quoted(text: str) -> str:
    return " ".join(text.split())[:_QUOTED_CHARACTERS]
