"""Talking to HAProxy through its master socket and its stats socket.

Commands and answers: HAProxy's management guide, "9.3. Unix Socket commands" and "9.4. Master CLI".
"""

import asyncio
import socket
import struct
from dataclasses import dataclass
from pathlib import Path

_RETRY = 0.005
_ANSWER_SECONDS = 5.0
_LIMIT = 1 << 20


class ControlError(Exception):
    """HAProxy did not answer."""


@dataclass(frozen=True, slots=True)
class Processes:
    """The answer to `show proc`: reloads so far, failures since the last good one, and the workers' pids."""

    reloads: int
    failed: int
    workers: tuple[int, ...]
    old: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Control:
    """A socket of HAProxy, for one command per connection (a lasting one would keep an old worker alive)."""

    path: Path
    master: bool = True

    async def ask(self, command: str, timeout: float = _ANSWER_SECONDS) -> str:
        """Send a command and return the answer.

        While HAProxy reloads, its socket refuses connections and resets them: tried again until `timeout` seconds
        have passed. Raises ControlError then.
        """
        deadline = asyncio.get_running_loop().time() + timeout
        while True:
            try:
                async with asyncio.timeout_at(deadline):
                    return await self._exchange(command)
            except (OSError, TimeoutError) as error:
                if asyncio.get_running_loop().time() + _RETRY >= deadline:
                    reason = getattr(error, "strerror", None) or "no answer"
                    raise ControlError(f"{self.path}: {reason}") from None
            await asyncio.sleep(_RETRY)

    async def once(self, command: str, timeout: float) -> str:
        """Send a command that must not be repeated; the answer is '' if it does not come.

        Raises ControlError if no connection came about within `timeout` seconds.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        while True:
            try:
                async with asyncio.timeout_at(deadline):
                    streams = await asyncio.open_unix_connection(self.path, limit=_LIMIT)
                break
            except (OSError, TimeoutError) as error:
                if loop.time() + _RETRY >= deadline:
                    raise ControlError(f"{self.path}: {getattr(error, 'strerror', None) or 'no answer'}") from None
            await asyncio.sleep(_RETRY)
        try:
            async with asyncio.timeout_at(deadline):
                return await _converse(*streams, command)
        except (OSError, TimeoutError):
            return ""

    async def generation(self, timeout: float = _ANSWER_SECONDS) -> str | None:
        """The description of the configuration that takes new connections; None if there is none such yet."""
        info = dict(
            line.lower().split(": ", 1)
            for line in (await self.ask(self._to_worker("show info"), timeout)).splitlines()
            if ": " in line
        )
        return info.get("description") if info.get("stopping") == "0" else None

    async def processes(self, timeout: float = _ANSWER_SECONDS) -> Processes:
        """The master's workers. Raises ControlError."""
        return parse_processes(await self.ask("show proc", timeout))

    async def server_states(self) -> str:
        """The state of HAProxy's servers, as a state file. Raises ControlError."""
        return await self.ask(self._to_worker("show servers state"))

    async def streams(self, worker: int) -> int:
        """The number of connections and requests of a worker, also of an old one. Raises ControlError."""
        answer = await self.ask(f"@!{worker} show sess", 1.0)
        return sum(" fe=" in line and " fe=GLOBAL " not in line for line in answer.splitlines())

    def peer(self) -> int | None:
        """The pid of the process that listens on the socket; None if nobody does."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.settimeout(1)
            try:
                client.connect(str(self.path))
                credentials = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
            except OSError:
                return None
        pid: int = struct.unpack("3i", credentials)[0]
        return pid or None

    def _to_worker(self, command: str) -> str:
        return f"@1 {command}" if self.master else command

    async def _exchange(self, command: str) -> str:
        answer = await _converse(*await asyncio.open_unix_connection(self.path, limit=_LIMIT), command)
        if not answer.strip():
            raise ConnectionResetError("no answer")
        return answer


async def _converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, command: str) -> str:
    try:
        writer.write(f"{command}\n".encode())
        await writer.drain()
        # Without this the master keeps the connection open after its answer.
        writer.write_eof()
        return (await reader.read()).decode(errors="replace")
    finally:
        writer.close()


def parse_processes(answer: str) -> Processes:
    """Read the answer to `show proc`. Raises ControlError if it is none."""
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
        raise ControlError(f"not an answer to 'show proc': {answer.strip()[:100]!r}")
    return Processes(reloads, failed, tuple(workers), tuple(old))
