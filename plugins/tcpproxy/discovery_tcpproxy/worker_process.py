"""One worker process: started or adopted, told what it is to be by difference, and ended. Never waits for another."""

import asyncio
import os
import signal
import socket
import sys
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from structlog.typing import FilteringBoundLogger

from discovery.toolkit import ProcessHandle, child_environment, log_format
from discovery_tcpproxy import wire
from discovery_tcpproxy.channel import Channel, RefusedError, WorkerError
from discovery_tcpproxy.life import Child
from discovery_tcpproxy.listeners import Listening
from discovery_tcpproxy.targets import Target, Targets, changed

PATIENCE = 10.0
"""Seconds that a worker may take for an answer before it counts as hanging."""
_START = 30.0
_HELLO = 5.0

Sockets = Mapping[str, tuple[Listening, ...]]
"""The open sockets of each listener that has any."""


class WorkerProcess:
    """A process of the data plane, as the control plane sees it."""

    def __init__(
        self, number: int, process: ProcessHandle, channel: socket.socket, log: FilteringBoundLogger, patience: float
    ) -> None:
        """Of a process that listens at the other end of `channel`; `number`, from 0: which share of limits it has."""
        self.number = number
        self.pid = process.pid
        self.started = time.monotonic()
        self.report: Mapping[str, Any] = {}
        self.ended = process.ended
        self.stopped = False
        """Whether it was told to accept no more, for good."""
        self.mute = False
        """Whether its code is not ours: it is told to stop, and nothing else."""
        self._process = process
        self._log = log
        self._patience = patience
        self._telling = asyncio.Lock()
        self._targets: dict[str, tuple[Target, ...]] = {}
        self._asked: tuple[dict[str, Any], float] | None = None
        self._sockets: dict[str, int] = {}  # by address: which socket it has there
        self._killed = False
        self._channel = Channel(channel, self._on_event)

    @classmethod
    def start(cls, number: int, run_dir: Path, log: FilteringBoundLogger, patience: float) -> Self:
        """Start one, which the next daemon finds in `run_dir` should this one die. Raises OSError."""
        ours, theirs = socket.socketpair()
        try:
            stderr = os.dup(2)
            try:
                with theirs:
                    descriptors = theirs.fileno(), stderr
                    child = Child(
                        # -P: what happens to be in the current directory is no module of ours.
                        [sys.executable, "-P", "-m", "discovery_tcpproxy.worker", *map(str, descriptors), str(run_dir)],
                        descriptors,
                        {**child_environment(), "DISCOVERY_LOG_FORMAT": log_format()},
                        lambda line: log.warning("worker", pid=child.pid, line=line),
                    )
            finally:
                os.close(stderr)
        except OSError:
            ours.close()
            raise
        return cls(number, child, ours, log, patience)

    @property
    def alive(self) -> bool:
        """Whether it runs, and is to go on."""
        return not (self.ended.is_set() or self._killed)

    @property
    def status(self) -> str:
        """How the process ended, in words."""
        if isinstance(self._process, Child) and (outcome := self._process.outcome) is not None:
            return outcome
        return "it has ended" if self.ended.is_set() else "it runs"

    async def hello(self, stderr: int | None) -> dict[str, Any]:
        """Ask an adopted one about itself, first, and let it log to `stderr` should this process die; None: as before.

        Raises WorkerError, or RefusedError if it has a daemon.
        """
        told, descriptors = {"log_format": log_format()}, () if stderr is None else (stderr,)
        answer = await self._channel.ask("hello", min(self._patience, _HELLO), told, descriptors)
        self.started = time.monotonic() - answer["age"]
        self.stopped = answer["stopping"]
        return answer

    async def sockets(self, count: int) -> dict[str, socket.socket]:
        """The listening sockets that an adopted one has, by address: copies. Raises WorkerError or RefusedError."""
        found: dict[str, socket.socket] = {}
        while len(found) < count:
            answer, sockets = await self._channel.ask_for_sockets("sockets", self._patience, {"begin": len(found)})
            some = dict(zip(answer["sockets"], sockets, strict=False))
            found |= some
            if not some or len(some) < len(answer["sockets"]):
                break  # there were no descriptors for them
        self._sockets = {bind: identity(each) for bind, each in found.items()}
        return found

    async def tell(
        self, listeners: Mapping[str, Mapping[str, Any]], sockets: Sockets, targets: Targets, grace: float
    ) -> None:
        """Make it so, by what differs from what it was told before; done when it has said so.

        `grace` is how many seconds connections have should it have to stop without us. Raises WorkerError or
        RefusedError.
        """
        if self.mute:
            return
        async with self._telling:
            # Backends first: no connection is to meet a listener whose service has none yet.
            if news := changed(self._targets, targets):
                told = {service: [target.told() for target in each] for service, each in news.items()}
                await self._ask("backends", {"services": told})
                self._targets.update(news)
            if not self.stopped:
                await self._tell_listeners(listeners, sockets, grace)
            # A worker may forget a service that is not wanted; it is sent again if it is wanted later.
            for service in self._targets.keys() - targets.keys():
                del self._targets[service]

    async def ask_report(self, *, connections: bool = False) -> Mapping[str, Any]:
        """Its figures; they are kept as `report` as well. Raises WorkerError."""
        if self.mute:
            return {}
        report = await self._ask("report", {"connections": connections})
        self.report = {key: value for key, value in report.items() if key not in ("re", "connections", "more")}
        return report

    async def stop(self, grace: float | None, *, end_idle: bool = False) -> None:
        """Let it stop accepting, and end when its connections have, after `grace` seconds (None: its own) at most.

        With `end_idle` it closes those that are idle.
        """
        async with self._telling:
            self._sockets, self._asked, self.stopped = {}, None, True
            given = {} if grace is None else {"grace": grace}
            await self._ask("stop", {**given, "end_idle": end_idle})

    def kill(self) -> None:
        """End it at once."""
        self._killed = True
        self._process.send_signal(signal.SIGKILL)

    async def close(self) -> None:
        """End it if it has not, and leave nothing of it."""
        self._channel.close()
        self.kill()
        await self.ended.wait()

    async def end(self, patience: float) -> None:
        """Let it stop, its connections in the time that it gives them, and end it by force after `patience` seconds."""
        with suppress(WorkerError, RefusedError, TimeoutError):
            await self.stop(None, end_idle=True)
            async with asyncio.timeout(patience):
                await self.ended.wait()
        await self.close()

    def leave(self) -> None:
        """Close the handle and leave the process as it is."""
        self._channel.close()
        self._process.close()

    async def _ask(self, do: str, message: Mapping[str, Any], descriptors: Iterable[int] = ()) -> dict[str, Any]:
        young = time.monotonic() - self.started < _START
        return await self._channel.ask(do, max(self._patience, _START if young else 0.0), message, tuple(descriptors))

    async def _tell_listeners(self, listeners: Mapping[str, Mapping[str, Any]], sockets: Sockets, grace: float) -> None:
        """Frames carry no more descriptors than the kernel takes, and each frame is complete for what it names."""
        wanted = {each.bind: each for group in sockets.values() for each in group}
        identities = {bind: identity(each.sock) for bind, each in wanted.items()}
        known = {bind: each for bind, each in self._sockets.items() if identities.get(bind) == each}
        asked = {
            name: {**settings, "sockets": sorted(each.bind for each in sockets.get(name, ()))}
            for name, settings in listeners.items()
        }
        if (asked, grace) == self._asked and self._sockets == identities:
            return
        if any(bind in wanted for bind in self._sockets.keys() - known.keys()):
            # Another socket of the same address: the old has to be let go first.
            await self._send_listeners(asked, grace, known, {})
        new = [each for bind, each in wanted.items() if bind not in known]
        while True:
            some, new = new[: wire.MAX_DESCRIPTORS], new[wire.MAX_DESCRIPTORS :]
            await self._send_listeners(asked, grace, known, {each.bind: index for index, each in enumerate(some)}, some)
            known |= {each.bind: identities[each.bind] for each in some}
            if not new:
                break
        self._asked = asked, grace

    async def _send_listeners(
        self,
        asked: Mapping[str, Mapping[str, Any]],
        grace: float,
        known: Mapping[str, int],
        indexes: Mapping[str, int],
        new: Iterable[Listening] = (),
    ) -> None:
        told = {
            name: {
                **listener,
                "sockets": {
                    bind: indexes.get(bind) for bind in listener["sockets"] if bind in known or bind in indexes
                },
            }
            for name, listener in asked.items()
        }
        await self._ask("listen", {"listeners": told, "grace": grace}, [each.sock.fileno() for each in new])
        self._sockets = {**known, **{each.bind: identity(each.sock) for each in new}}

    def _on_event(self, message: Mapping[str, Any]) -> None:
        if message["event"] == "access":
            self._log.info("connection", every=True, **{key: value for key, value in message.items() if key != "event"})
        elif message["event"] == "log":
            level = message.get("level")
            tell = getattr(self._log, level if level in ("debug", "info", "warning", "error") else "info")
            tell(str(message.get("message", "")), pid=self.pid, **message.get("fields", {}))


def identity(sock: socket.socket) -> int:
    """The same for every descriptor of one socket, in whichever process."""
    return os.fstat(sock.fileno()).st_ino
