"""Commands to HAProxy through the master socket or the stats socket, and the answers.

Commands and answers: HAProxy's management guide, "9.3. Unix Socket commands" and "9.4. Master CLI".
"""

import asyncio
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from discovery.toolkit import peer_credentials
from discovery_haproxy.connecting import connect_to
from discovery_haproxy.text.generation import DESCRIPTION, Marker

_RETRY_SECONDS = 0.005
"""Seconds between two connection attempts: a reload refuses connections for a few milliseconds."""
_ANSWER_SECONDS = 5.0
"""Timeout in seconds for an answer, unless the caller has another: a worker that loads 10,000 backends needs one."""
_COUNT_SECONDS = 1.0
"""Timeout in seconds for counts of workers; a worker that hangs must not delay a stop or a health check."""
_PEER_SECONDS = 1.0
"""Timeout in seconds for a connection to the socket; the kernel accepts at once unless the queue is full."""
_CHUNK_BYTES = 1 << 16
"""Bytes of an answer that are received at once: the states of some 600 servers."""
_QUOTED_CHARACTERS = 100
"""Characters of an unexpected answer in an error message, which is one line."""


class ControlError(Exception):
    """No usable answer from HAProxy."""


class Processes(NamedTuple):
    """The answer to `show proc`: reloads so far, failures since the last good reload, and the workers' pids."""

    reloads: int
    failed: int
    workers: tuple[int, ...]
    old: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ControlSocket:
    """The master socket or stats socket of HAProxy.

    Each command uses a connection of its own: a lasting connection would keep an old worker alive.
    """

    path: Path
    master: bool = True
    marker: Marker = DESCRIPTION
    """The line of the configuration that names the generation."""

    async def send(self, command: str, timeout: float = _ANSWER_SECONDS) -> str:
        """Send a command and return the answer.

        A reload of HAProxy refuses and resets connections, so the command is repeated for up to `timeout` seconds.
        Raises ControlError after `timeout` seconds without an answer.
        """
        deadline = asyncio.get_running_loop().time() + timeout
        while True:
            try:
                async with asyncio.timeout_at(deadline):
                    return await self._send(command)
            except (OSError, TimeoutError) as error:
                if asyncio.get_running_loop().time() + _RETRY_SECONDS >= deadline:
                    reason = getattr(error, "strerror", None) or "no answer"
                    raise ControlError(f"{self.path}: {reason}") from None
            await asyncio.sleep(_RETRY_SECONDS)

    async def send_once(self, command: str, timeout: float) -> str:
        """Send a command that must not be repeated, and return the answer, or '' if there is none.

        Raises ControlError if no connection is established within `timeout` seconds.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        while True:
            try:
                async with asyncio.timeout_at(deadline):
                    client = await connect_to(self.path)
                break
            except (OSError, TimeoutError) as error:
                if loop.time() + _RETRY_SECONDS >= deadline:
                    raise ControlError(f"{self.path}: {getattr(error, 'strerror', None) or 'no answer'}") from None
            await asyncio.sleep(_RETRY_SECONDS)
        try:
            async with asyncio.timeout_at(deadline):
                return await _exchange(client, command)
        except (OSError, TimeoutError):
            return ""

    async def live_generation(self, timeout: float = _ANSWER_SECONDS) -> str | None:
        """Return the generation that serves new connections; None if none does.

        The configuration names the generation in `marker`. Raises ControlError.
        """
        answer = await self.send(self._to_worker("show info"), timeout)
        if _fields(answer).get("stopping") != "0":
            return None
        for command in self.marker.commands:
            answer += await self.send(self._to_worker(command), timeout)
        return self.marker.generation(answer)

    async def processes(self, timeout: float = _ANSWER_SECONDS) -> Processes:
        """Return the master's reload counters and workers. Raises ControlError."""
        return parse_processes(await self.send("show proc", timeout))

    async def server_states(self) -> str:
        """Return the states of HAProxy's servers, in the format of a server-state file. Raises ControlError."""
        return await self.send(self._to_worker("show servers state"))

    async def statistics(self, question: str, timeout: float = _ANSWER_SECONDS) -> str:
        """Return the worker's answer to `show stat ...`. Raises ControlError."""
        return await self.send(self._to_worker(question), timeout)

    async def count_streams(self, worker: int) -> int:
        """Return the number of a worker's connections and requests. The worker may be old. Raises ControlError."""
        answer = await self.send(f"@!{worker} show sess", _COUNT_SECONDS)
        return sum(" fe=" in line and " fe=GLOBAL " not in line for line in answer.splitlines())

    async def dropped_log_lines(self) -> dict[int, int]:
        """Return the number of log lines that each worker has dropped, by pid; a stats socket knows one worker.

        Raises ControlError, also if the answers take longer than a second together.
        """
        try:
            async with asyncio.timeout(_COUNT_SECONDS):
                commands = ["show info"]
                if self.master:
                    processes = await self.processes()
                    commands = [f"@!{worker} show info" for worker in (*processes.workers, *processes.old)]
                answers = [_fields(await self.send(command)) for command in commands]
        except TimeoutError:
            raise ControlError(f"{self.path}: no answer") from None
        return {int(each["pid"]): int(each["droppedlogs"]) for each in answers if each.keys() >= {"pid", "droppedlogs"}}

    def listener_pid(self) -> int | None:
        """Return the pid of the process that listens on the socket; None if no process does."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.settimeout(_PEER_SECONDS)
            try:
                client.connect(str(self.path))
                return peer_credentials(client).pid or None
            except OSError:
                return None

    def _to_worker(self, command: str) -> str:
        return f"@1 {command}" if self.master else command

    async def _send(self, command: str) -> str:
        answer = await _exchange(await connect_to(self.path), command)
        if not answer.strip():
            raise ConnectionResetError("no answer")
        return answer


async def _exchange(client: socket.socket, command: str) -> str:
    """Send a command over the connection, which is closed afterwards, and return the answer. Raises OSError."""
    loop = asyncio.get_running_loop()
    with client:
        await loop.sock_sendall(client, f"{command}\n".encode())
        # Without this the master keeps the connection open after its answer.
        client.shutdown(socket.SHUT_WR)
        chunks = []
        while chunk := await loop.sock_recv(client, _CHUNK_BYTES):
            chunks.append(chunk)
    return b"".join(chunks).decode(errors="replace")


def _fields(answer: str) -> dict[str, str]:
    """Return the fields of an answer to `show info`, names and values in lower case."""
    return dict(line.lower().split(": ", 1) for line in answer.splitlines() if ": " in line)


def parse_processes(answer: str) -> Processes:
    """Parse the answer to `show proc`. Raises ControlError for any other text."""
    reloads = failed = -1
    workers: list[int] = []
    old: list[int] = []
    section = workers
    for line in answer.splitlines():
        words = line.replace("[", " ").replace("]", " ").split()
        if line.startswith("# old"):
            section = old
        elif line.startswith("# workers"):
            section = workers
        elif len(words) > 2 and words[1] == "master":
            reloads = int(words[2])
            failed = int(words[words.index("failed:") + 1]) if "failed:" in words else 0
        elif len(words) > 2 and words[1] == "worker":
            section.append(int(words[0]))
    if reloads < 0:
        raise ControlError(f"not an answer to 'show proc': {answer.strip()[:_QUOTED_CHARACTERS]!r}")
    return Processes(reloads, failed, tuple(workers), tuple(old))
