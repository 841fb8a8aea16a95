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
from discovery_haproxy.text.generation import DESCRIPTION, Marker

_PROMPT = b"\n> "
_WAITING = re.compile(r"^(?:\+ )+")
"""HAProxy's prompts for the lines of a payload, before the answer."""
_ANSWER_SECONDS = 5.0
"""Seconds for an answer: a worker that loads 10,000 backends needs one."""
_BUFFER_BYTES = 1 << 26
"""Bytes of the largest answer: the states of some 600,000 servers."""
_FIRST_BATCH = 8
"""Most commands of the first batch, before their cost is known, and fewer if their estimate is more than 10 ms."""
_MOST_BATCH = 256
"""Commands of the largest batch, so that few answers are buffered."""
_FAST_SECONDS = 0.003
"""Seconds of a batch below which the next batch is twice as large."""
_SLOW_SECONDS = 0.01
"""Seconds of a batch above which the next batch is half as large. Requests wait for the batch, and never for 50 ms:
with 20 ms in place of 10 the slowest of many requests waited for 20 to 70 ms (`benchmarks/runtime_stalls.py`)."""
_NO_ANSWER = "HAProxy has not answered a command: {}"
_QUOTED_CHARACTERS = 200
"""Characters of an unexpected answer in an error message, which is one line."""


_TOO_LOW_A_LEVEL = (
    "the stats socket lets discovery only read: add `level admin` to its `stats socket` line, and until then every"
    " change of a server is a reload"
)


class RuntimeApiError(Exception):
    """HAProxy refuses a command, or the outcome of commands is unknown."""


class LostConnectionError(RuntimeApiError):
    """HAProxy has closed the connection amid commands, of which `done` groups are known to be executed."""

    done = 0


class LevelError(RuntimeApiError):
    """The stats socket lets its clients read, and change nothing."""


class Worker(NamedTuple):
    """A worker process, as `show info` describes the worker.

    `generation` is that with which the worker started; empty if the worker's configuration names none. `started` is the
    second in which the process started: a new container may have the pids of the container before.
    """

    pid: int
    version: tuple[int, ...]
    generation: str
    started: str


class Connection:
    """A connection in `prompt` mode."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, marker: Marker) -> None:
        """Store the arguments; `connect` opens a connection."""
        self._reader = reader
        self._writer = writer
        self._marker = marker

    async def ask(self, command: str) -> str:
        """Send a command and return the answer. Raises RuntimeApiError."""
        [answer] = await self._ask([command])
        return answer

    async def ask_all(self, commands: Sequence[str]) -> list[str]:
        """Send commands at once and return the answers. Raises RuntimeApiError."""
        return await self._ask(commands)

    async def worker(self) -> Worker:
        """Return the worker that answers.

        Raises RuntimeApiError if the worker is stopping, LevelError if the socket does not let this process change
        anything.
        """
        answer, level, *named = await self._ask(["show info", "show cli level", *self._marker.commands])
        info = dict(line.split(": ", 1) for line in answer.splitlines() if ": " in line)
        if info.get("Stopping") != "0" or not info.get("Pid", "").isdecimal():
            raise RuntimeApiError("the worker that answers is being replaced")
        if level.strip() != "admin":
            raise LevelError(_TOO_LOW_A_LEVEL)
        version = info.get("Version", "").split("-")[0].split(".")
        return Worker(
            int(info["Pid"]),
            tuple(int(part) for part in version if part.isdecimal()),
            self._marker.generation("\n".join((answer, *named))) or "",
            info.get("Start_time_sec", ""),
        )

    async def execute(self, groups: Sequence[Sequence[Command]], seconds: float = 0.0) -> None:
        """Execute groups of commands, the commands of a group at once, with pauses for traffic between batches.

        `seconds` is the estimated time of all groups: traffic may not wait for the first batch either.
        Raises RuntimeApiError for the first answer that is not the expected answer, LostConnectionError if the answers
        end.
        """
        done, size = 0, _first_batch(sum(map(len, groups)), seconds)
        while done < len(groups):
            end, batch = done, list[Command]()
            while end < len(groups) and (not batch or len(batch) + len(groups[end]) <= size):
                batch += groups[end]
                end += 1
            started = time.monotonic()
            try:
                answers = await self._ask([command.lines for command in batch])
            except LostConnectionError as error:
                error.done = done
                raise
            seconds = time.monotonic() - started
            for command, answer in zip(batch, answers, strict=True):
                _check(command, answer)
            done = end
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
        except (ConnectionError, EOFError) as error:
            raise LostConnectionError(_NO_ANSWER.format(str(error) or type(error).__name__)) from None
        except (OSError, TimeoutError, asyncio.LimitOverrunError) as error:
            raise RuntimeApiError(_NO_ANSWER.format(str(error) or type(error).__name__)) from None


def _first_batch(commands: int, seconds: float) -> int:
    """Return the number of commands of the first batch."""
    return max(1, min(_FIRST_BATCH, int(_SLOW_SECONDS * commands / seconds))) if seconds else _FIRST_BATCH


@asynccontextmanager
async def connect(stats_socket: Path, marker: Marker = DESCRIPTION) -> AsyncIterator[Connection]:
    """Open a connection to the worker that listens on the stats socket. Raises RuntimeApiError.

    `marker` is the line of the configuration that names the generation.
    """
    try:
        async with asyncio.timeout(_ANSWER_SECONDS):
            reader, writer = await asyncio.open_unix_connection(stats_socket, limit=_BUFFER_BYTES)
    except (OSError, TimeoutError) as error:
        raise RuntimeApiError(f"{stats_socket} cannot be connected to: {str(error) or 'no answer'}") from None
    try:
        connection = Connection(reader, writer, marker)
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
