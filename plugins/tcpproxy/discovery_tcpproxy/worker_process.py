"""One worker process: started, told what it is to be by difference, watched, and ended. Never waits for another."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

from structlog.typing import FilteringBoundLogger

from discovery_tcpproxy import wire
from discovery_tcpproxy.channel import Channel
from discovery_tcpproxy.listeners import Listening
from discovery_tcpproxy.targets import Target, Targets, changed

PATIENCE = 10.0
"""Seconds that a worker may take for an answer before it counts as hanging."""
_START = 30.0
_LONGEST_LINE = 1 << 14

Sockets = Mapping[str, tuple[Listening, ...]]
"""The open sockets of each listener that has any."""


class WorkerProcess:
    """A process of the data plane, as the control plane sees it."""

    def __init__(self, number: int, log: FilteringBoundLogger, patience: float) -> None:
        """Start it; `number`, from 0, tells which share of the limits is its. Raises OSError."""
        self.number = number
        self.started = time.monotonic()
        self.report: Mapping[str, Any] = {}
        self.ended = asyncio.Event()
        self._log = log
        self._patience = patience
        self._telling = asyncio.Lock()
        self._targets: dict[str, tuple[Target, ...]] = {}
        self._asked: tuple[dict[str, Any], float] | None = None
        self._sockets: dict[str, Listening] = {}
        self._line = b""
        self._killed = self._stopped = False
        self._loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                self._process = subprocess.Popen(
                    # -P: what happens to be in the current directory is no module of ours.
                    [sys.executable, "-P", "-m", "discovery_tcpproxy.worker", str(theirs.fileno())],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    pass_fds=[theirs.fileno()],
                    start_new_session=True,
                )
        except OSError:
            ours.close()
            raise
        self.pid = self._process.pid
        self._pidfd = os.pidfd_open(self.pid)
        self._loop.add_reader(self._pidfd, self._reap)
        assert self._process.stderr is not None  # noqa: S101 - for the type checker
        self._stderr = self._process.stderr.fileno()
        os.set_blocking(self._stderr, False)
        self._loop.add_reader(self._stderr, self._read_stderr)
        self._channel = Channel(ours, self._on_event)

    @property
    def alive(self) -> bool:
        """Whether it runs, and is to go on."""
        return not (self.ended.is_set() or self._killed)

    @property
    def status(self) -> str:
        """How it ended, in words."""
        code = self._process.returncode
        if code is None:
            return "it runs"
        return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"

    async def tell(
        self, listeners: Mapping[str, Mapping[str, Any]], sockets: Sockets, targets: Targets, grace: float
    ) -> None:
        """Make it so, by what differs from what it was told before; done when it has said so.

        `grace` is how many seconds connections have should we be gone. Raises WorkerError or RefusedError.
        """
        async with self._telling:
            # Backends first: no connection is to meet a listener whose service has none yet.
            if news := changed(self._targets, targets):
                told = {service: [target.told() for target in each] for service, each in news.items()}
                await self._ask("backends", {"services": told})
                self._targets.update(news)
            if not self._stopped:
                await self._tell_listeners(listeners, sockets, grace)
            # What nobody asks for any more the worker may forget, so that it is told anew if need be.
            for service in self._targets.keys() - targets.keys():
                del self._targets[service]

    async def ask_report(self, *, connections: bool = False) -> Mapping[str, Any]:
        """Its figures; they are kept as `report` as well. Raises WorkerError."""
        report = await self._ask("report", {"connections": connections})
        self.report = {key: value for key, value in report.items() if key not in ("re", "connections", "more")}
        return report

    async def stop(self, grace: float, *, end_idle: bool = False) -> None:
        """Let it stop accepting, and end when its connections have, after `grace` seconds in any case.

        With `end_idle` it closes those that are idle.
        """
        async with self._telling:
            self._sockets, self._asked, self._stopped = {}, None, True
            await self._ask("stop", {"grace": grace, "end_idle": end_idle})

    def kill(self) -> None:
        """End it at once."""
        self._killed = True
        if not self.ended.is_set():
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    async def close(self) -> None:
        """End it if it has not, and leave nothing of it."""
        self._channel.close()
        self.kill()
        await self.ended.wait()

    async def _ask(self, do: str, message: Mapping[str, Any], descriptors: Iterable[int] = ()) -> dict[str, Any]:
        young = time.monotonic() - self.started < _START
        return await self._channel.ask(do, max(self._patience, _START if young else 0.0), message, tuple(descriptors))

    async def _tell_listeners(self, listeners: Mapping[str, Mapping[str, Any]], sockets: Sockets, grace: float) -> None:
        """Frames carry no more descriptors than the kernel takes, and each frame is complete for what it names."""
        wanted = {each.bind: each for group in sockets.values() for each in group}
        known = {bind: each for bind, each in self._sockets.items() if wanted.get(bind) is each}
        asked = {
            name: {**settings, "sockets": sorted(each.bind for each in sockets.get(name, ()))}
            for name, settings in listeners.items()
        }
        if (asked, grace) == self._asked and self._sockets == wanted:
            return
        if any(bind in wanted for bind in self._sockets.keys() - known.keys()):
            # Another socket of the same address: the old has to be let go first.
            await self._send_listeners(asked, grace, known, {})
        new = [each for bind, each in wanted.items() if bind not in known]
        while True:
            some, new = new[: wire.MAX_DESCRIPTORS], new[wire.MAX_DESCRIPTORS :]
            await self._send_listeners(asked, grace, known, {each.bind: index for index, each in enumerate(some)}, some)
            known |= {each.bind: each for each in some}
            if not new:
                break
        self._asked = asked, grace

    async def _send_listeners(
        self,
        asked: Mapping[str, Mapping[str, Any]],
        grace: float,
        known: Mapping[str, Listening],
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
        self._sockets = {**known, **{each.bind: each for each in new}}

    def _on_event(self, message: Mapping[str, Any]) -> None:
        if message["event"] == "access":
            self._log.info("connection", **{key: value for key, value in message.items() if key != "event"})
        elif message["event"] == "log":
            level = message.get("level")
            tell = getattr(self._log, level if level in ("debug", "info", "warning", "error") else "info")
            tell(str(message.get("message", "")), pid=self.pid, **message.get("fields", {}))

    def _read_stderr(self) -> None:
        try:
            data = os.read(self._stderr, 1 << 16)
        except BlockingIOError:
            return
        *lines, self._line = (self._line + data).split(b"\n")
        if not data or len(self._line) > _LONGEST_LINE:
            lines, self._line = [*lines, self._line], b""
        for line in lines:
            if text := line.decode(errors="replace").rstrip():
                self._log.warning("worker", pid=self.pid, line=text)
        if not data:
            self._close_stderr()

    def _close_stderr(self) -> None:
        if self._process.stderr is not None and not self._process.stderr.closed:
            self._loop.remove_reader(self._stderr)
            self._process.stderr.close()

    def _reap(self) -> None:
        self._loop.remove_reader(self._pidfd)
        self._process.wait()
        os.close(self._pidfd)
        if self._process.stderr is not None and not self._process.stderr.closed:
            self._read_stderr()  # its last words
        self._close_stderr()
        self._channel.close()
        self.ended.set()
