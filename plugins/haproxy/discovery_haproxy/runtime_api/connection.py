"""A connection to the stats socket of HAProxy's worker, for a sequence of commands.

The connection is in `prompt` mode: each answer ends with a prompt, so that a lost command is noticed. A connection that
lasts would keep an old worker alive: `standing` says how long a connection may last.
"""

import asyncio
import re
import socket
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

from discovery.toolkit import cancel_and_wait
from discovery_haproxy.connecting import connect_to
from discovery_haproxy.limits import LIMITS, Limits
from discovery_haproxy.runtime_api.commands import Command
from discovery_haproxy.text.generation import DESCRIPTION, Marker

_PROMPT = b"\n> "
_WAITING = re.compile(r"^(?:\+ )+")
"""HAProxy's prompts for the lines of a payload, before the answer."""
_CHUNK_BYTES = 1 << 16
"""Bytes that are received at once: the states of some 600 servers."""
_WORKER_COMMANDS = ("show info", "show cli level")
"""Commands whose answers tell which worker answers, and what the socket lets this process do."""
_FIRST_BATCH = 8
"""Most commands of the first batch, before their cost is known, and fewer if their estimate is more than 10 ms."""
_MOST_BATCH = 256
"""Commands of the largest batch, so that few answers are buffered."""
_CHEAP_BATCH = 64
"""Commands of a batch that is never halved, where their estimate is a fraction of 10 ms."""
_SAFETY = 4
"""Factor by which commands may take longer than their estimate."""
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
    """HAProxy has closed the connection between commands, of which `done` groups are known to be executed."""

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
    """A connection in `prompt` mode. Belongs to one task."""

    def __init__(self, connected: socket.socket, marker: Marker, limits: Limits) -> None:
        """Store the arguments; `connect` opens a connection. The socket is connected and non-blocking."""
        self._socket = connected
        self._marker = marker
        self._limits = limits
        self._received = bytearray()
        self._in_prompt_mode = False
        self.answered_by: Worker | None = None
        """The worker that has answered, and that answers on this connection until its end; None if not asked yet."""

    @property
    def is_open(self) -> bool:
        """Report whether HAProxy has closed the connection, as far as is known here: False if so."""
        try:
            return self._socket.recv(1, socket.MSG_PEEK) != b""
        except BlockingIOError:  # nothing has come, as it should be between two exchanges
            return True
        except OSError:
            return False

    def close(self) -> None:
        """Close the connection. HAProxy ends its side at once. Idempotent."""
        self._socket.close()

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
        worker, _ = await self._ask_worker(())
        return worker

    async def ask_worker(self, worker: Worker, commands: Sequence[str]) -> list[str]:
        """Send commands at once and return the answers. Raises RuntimeApiError if another worker answers."""
        found, answers = await self._ask_worker(commands)
        if found != worker:
            raise RuntimeApiError(f"the worker {worker.pid} was replaced by {found.pid}")
        return answers

    async def execute(
        self, groups: Sequence[Sequence[Command]], seconds: float = 0.0, worker: Worker | None = None
    ) -> None:
        """Execute groups of commands, the commands of a group at once, with pauses for traffic between batches.

        `seconds` is the estimated time of all groups: traffic may not wait for the first batch either. `worker` is the
        worker that is to answer, None for any. The first batch asks which worker answers: another worker may have
        executed the commands of that batch. Raises RuntimeApiError for another worker and for the first answer that is
        not the expected answer, LostConnectionError if the answers end.
        """
        count = sum(map(len, groups))
        slow = self._limits.slow_batch
        done, size, least = 0, _first_batch(count, seconds, slow), _least_batch(count, seconds, slow)
        while done < len(groups):
            end, batch = done, list[Command]()
            while end < len(groups) and (not batch or len(batch) + len(groups[end]) <= size):
                batch += groups[end]
                end += 1
            started = time.monotonic()
            try:
                lines = [command.lines for command in batch]
                answers = await (self._ask(lines) if worker is None else self.ask_worker(worker, lines))
            except LostConnectionError as error:
                error.done = done
                raise
            seconds = time.monotonic() - started
            for command, answer in zip(batch, answers, strict=True):
                _check(command, answer)
            done, worker = end, None
            if seconds > slow:
                size = max(size // 2, least)
            elif seconds < self._limits.fast_batch:
                size = min(size * 2, _MOST_BATCH)

    async def obey(self, command: Command) -> str:
        """Execute a command and return the answer. Raises RuntimeApiError for an unexpected answer."""
        answer = await self.ask(command.lines)
        _check(command, answer)
        return answer

    async def _ask_worker(self, commands: Sequence[str]) -> tuple[Worker, list[str]]:
        """Send commands at once, and return the worker that answers, and the answers. Raises as `worker` does."""
        asked = (*_WORKER_COMMANDS, *self._marker.commands)
        answers = await self._ask([*asked, *commands])
        info, level, *named = answers[: len(asked)]
        fields = dict(line.split(": ", 1) for line in info.splitlines() if ": " in line)
        if fields.get("Stopping") != "0" or not fields.get("Pid", "").isdecimal():
            raise RuntimeApiError("the worker that answers is being replaced")
        if level.strip() != "admin":
            raise LevelError(_TOO_LOW_A_LEVEL)
        version = fields.get("Version", "").split("-")[0].split(".")
        worker = Worker(
            int(fields["Pid"]),
            tuple(int(part) for part in version if part.isdecimal()),
            self._marker.generation("\n".join((info, *named))) or "",
            fields.get("Start_time_sec", ""),
        )
        self.answered_by = worker
        return worker, answers[len(asked) :]

    async def _ask(self, commands: Sequence[str]) -> list[str]:
        # The first exchange turns the mode on, so that it costs no exchange of its own.
        mode = () if self._in_prompt_mode else ("prompt",)
        self._in_prompt_mode = True
        data = "".join(f"{command}\n" for command in (*mode, *commands)).encode()
        try:
            rest = self._send_at_once(data)
            async with asyncio.timeout(self._limits.answer):
                if not rest:
                    return (await self._answers(len(mode) + len(commands)))[len(mode) :]
                # HAProxy may not read on before its answers are read.
                task = asyncio.create_task(asyncio.get_running_loop().sock_sendall(self._socket, rest))
                try:
                    return (await self._answers(len(mode) + len(commands)))[len(mode) :]
                finally:
                    await cancel_and_wait(task)
        except (ConnectionError, EOFError) as error:
            raise LostConnectionError(_NO_ANSWER.format(str(error) or type(error).__name__)) from None
        except (OSError, TimeoutError) as error:
            raise RuntimeApiError(_NO_ANSWER.format(str(error) or type(error).__name__)) from None

    def _send_at_once(self, data: bytes) -> bytes:
        """Send as much as the kernel takes now, and return the rest. Raises OSError."""
        try:
            return data[self._socket.send(data) :]
        except BlockingIOError:
            return data

    async def _answers(self, count: int) -> list[str]:
        """Receive answers. Raises OSError, or EOFError if the connection ends before the last prompt."""
        answers: list[str] = []
        received, searched = self._received, 0
        while len(answers) < count:
            if (end := received.find(_PROMPT, searched)) >= 0:
                answers.append(received[:end].decode(errors="replace"))
                del received[: end + len(_PROMPT)]
                searched = 0
                continue
            searched = max(len(received) - len(_PROMPT) + 1, 0)
            chunk = await asyncio.get_running_loop().sock_recv(self._socket, _CHUNK_BYTES)
            if not chunk:
                raise EOFError("the connection was closed")
            received += chunk
        return answers


def _first_batch(commands: int, seconds: float, slow: float) -> int:
    """Return the number of commands of the first batch."""
    return max(1, min(_FIRST_BATCH, int(slow * commands / seconds))) if seconds else _FIRST_BATCH


def _least_batch(commands: int, seconds: float, slow: float) -> int:
    """Return the number of commands below which no batch falls.

    On a busy machine even one command takes long, and small batches of cheap commands make a large change slow.
    """
    return max(1, min(_CHEAP_BATCH, int(slow * commands / (_SAFETY * seconds)))) if seconds else 1


async def open_connection(stats_socket: Path, marker: Marker = DESCRIPTION, limits: Limits = LIMITS) -> Connection:
    """Open a connection to the worker that listens on the stats socket. The caller closes it. Raises RuntimeApiError.

    `marker` is the line of the configuration that names the generation.
    """
    try:
        async with asyncio.timeout(limits.answer):
            return Connection(await connect_to(stats_socket), marker, limits)
    except (OSError, TimeoutError) as error:
        raise RuntimeApiError(f"{stats_socket} cannot be connected to: {str(error) or 'no answer'}") from None


@asynccontextmanager
async def connect(
    stats_socket: Path, marker: Marker = DESCRIPTION, limits: Limits = LIMITS
) -> AsyncIterator[Connection]:
    """Open a connection as `open_connection` does, and close the connection at the end of the block."""
    connection = await open_connection(stats_socket, marker, limits)
    try:
        yield connection
    finally:
        connection.close()


def _check(command: Command, answer: str) -> None:
    if not command.success.fullmatch(answer):
        raise RuntimeApiError(f"HAProxy refuses {_quoted(command.text)}: {_quoted(_WAITING.sub('', answer))}")


def _quoted(text: str) -> str:
    return " ".join(text.split())[:_QUOTED_CHARACTERS]
