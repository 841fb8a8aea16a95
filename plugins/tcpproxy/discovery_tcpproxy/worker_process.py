"""A worker process from the view of the daemon: started or adopted, configured by differences, and ended."""

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
from discovery_tcpproxy.channel import CommandRefusedError, WorkerChannel, WorkerError
from discovery_tcpproxy.child import ChildProcess
from discovery_tcpproxy.listening_sockets import ListeningSocket
from discovery_tcpproxy.targets import Target, Targets, changed
from discovery_tcpproxy.timing import Timing

Sockets = Mapping[str, tuple[ListeningSocket, ...]]
"""Open listening sockets of each listener that has any."""


class WorkerProcess:
    """A worker process, with the last state that the daemon has sent."""

    def __init__(
        self, number: int, process: ProcessHandle, channel: socket.socket, log: FilteringBoundLogger, timing: Timing
    ) -> None:
        """Wrap a worker at the other end of `channel`.

        `number`, from 0, determines its share of the limits.
        """
        self.number = number
        self.pid = process.pid
        self.started = time.monotonic()
        self.report: Mapping[str, Any] = {}
        self.ended = process.ended
        self.stopped = False
        """True if the worker was told to stop accepting, which cannot be undone."""
        self.is_other_build = False
        """True if the worker runs other code than this daemon: the only command that it gets is to stop."""
        self._process = process
        self._log = log
        self._timing = timing
        self._lock = asyncio.Lock()
        self._targets: dict[str, tuple[Target, ...]] = {}
        self._configured: tuple[dict[str, Any], float] | None = None
        self._sockets: dict[str, int] = {}  # identity of the worker's socket, by address
        self._killed = False
        self._channel = WorkerChannel(channel, self._on_event)

    @classmethod
    def start(cls, number: int, run_dir: Path, log: FilteringBoundLogger, timing: Timing) -> Self:
        """Start a worker that the next daemon finds in `run_dir` if this daemon dies. Raises OSError."""
        ours, theirs = socket.socketpair()
        try:
            stderr = os.dup(2)
            try:
                with theirs:
                    descriptors = theirs.fileno(), stderr
                    child = ChildProcess(
                        # -P: files in the current directory must not replace modules.
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
        return cls(number, child, ours, log, timing)

    @property
    def alive(self) -> bool:
        """True if the process runs and has not been killed."""
        return not (self.ended.is_set() or self._killed)

    @property
    def status(self) -> str:
        """Exit code or signal of the process in words."""
        if isinstance(self._process, ChildProcess) and (outcome := self._process.outcome) is not None:
            return outcome
        return "the process has ended" if self.ended.is_set() else "the process runs"

    async def identify(self, stderr: int | None) -> dict[str, Any]:
        """Send the first request to an adopted worker, and return its build, age, grace, state and number of sockets.

        The worker will log to the descriptor `stderr` if this daemon dies; None leaves its log where it is. Raises
        WorkerError, or CommandRefusedError if the worker has a daemon.
        """
        message, descriptors = {"log_format": log_format()}, () if stderr is None else (stderr,)
        answer = await self._channel.request(
            "hello", min(self._timing.answer, self._timing.hello), message, descriptors
        )
        self.started = time.monotonic() - answer["age"]
        self.stopped = answer["stopping"]
        return answer

    async def fetch_sockets(self, count: int) -> dict[str, socket.socket]:
        """Return copies of the `count` listening sockets of an adopted worker, by address.

        There are fewer if this process runs out of descriptors. Raises WorkerError or CommandRefusedError.
        """
        found: dict[str, socket.socket] = {}
        while len(found) < count:
            answer, sockets = await self._channel.request_sockets("sockets", self._timing.answer, {"begin": len(found)})
            some = dict(zip(answer["sockets"], sockets, strict=False))
            found |= some
            if not some or len(some) < len(answer["sockets"]):
                break  # this process has no free descriptor
        self._sockets = {bind: identity(each) for bind, each in found.items()}
        return found

    async def configure(
        self, listeners: Mapping[str, Mapping[str, Any]], sockets: Sockets, targets: Targets, grace: float
    ) -> None:
        """Send the worker the difference between this state and the last state, and wait for its answers.

        `grace` is the seconds that connections have if the worker stops without a daemon. Raises WorkerError or
        CommandRefusedError.
        """
        if self.is_other_build:
            return
        async with self._lock:
            # Backends are sent before listeners, so that the first clients of a listener find backends.
            if news := changed(self._targets, targets):
                wire_form = {service: [target.to_wire() for target in each] for service, each in news.items()}
                await self._request("backends", {"services": wire_form})
                self._targets.update(news)
            if not self.stopped:
                await self._configure_listeners(listeners, sockets, grace)
            # A worker may drop the backends of an unused service, which are sent again if the service is used later.
            for service in self._targets.keys() - targets.keys():
                del self._targets[service]

    async def fetch_report(self, *, connections: bool = False) -> Mapping[str, Any]:
        """Return a new report, with the list of connections if asked for, and keep its counters in `report`.

        Raises WorkerError or CommandRefusedError.
        """
        if self.is_other_build:
            return {}
        report = await self._request("report", {"connections": connections})
        self.report = {key: value for key, value in report.items() if key not in ("re", "connections", "more")}
        return report

    async def stop(self, grace: float | None, *, end_idle: bool = False) -> None:
        """Tell the worker to stop accepting, and to end with its last connection, after `grace` seconds at most.

        None stands for the grace that the worker was configured with. With `end_idle` the worker closes idle
        connections. Raises WorkerError or CommandRefusedError.
        """
        async with self._lock:
            self._sockets, self._configured, self.stopped = {}, None, True
            given = {} if grace is None else {"grace": grace}
            await self._request("stop", {**given, "end_idle": end_idle})

    def kill(self) -> None:
        """Kill the process with SIGKILL."""
        self._killed = True
        self._process.send_signal(signal.SIGKILL)

    async def close(self) -> None:
        """Kill the process unless already ended, wait for the end, and release all resources."""
        self._channel.close()
        self.kill()
        await self.ended.wait()

    async def stop_and_wait(self, timeout: float) -> None:
        """Stop the worker with its own grace, and kill a worker that has not ended after `timeout` seconds."""
        with suppress(WorkerError, CommandRefusedError):
            await self.stop(None, end_idle=True)
            await self.wait(timeout)
        await self.close()

    async def wait(self, timeout: float) -> bool:
        """Wait for the end of the process, for at most `timeout` seconds. Return False if the process still runs."""
        return await self._process.wait(timeout)

    def release(self) -> None:
        """Close the handle and leave the process as it is."""
        self._channel.close()
        self._process.close()

    async def _request(self, do: str, message: Mapping[str, Any], descriptors: Iterable[int] = ()) -> dict[str, Any]:
        answer, start = self._timing.answer, self._timing.start
        limit = max(answer, start) if time.monotonic() - self.started < start else answer
        return await self._channel.request(do, limit, message, tuple(descriptors))

    async def _configure_listeners(
        self, listeners: Mapping[str, Mapping[str, Any]], sockets: Sockets, grace: float
    ) -> None:
        """Send the listeners in frames of at most `wire.MAX_DESCRIPTORS` new sockets.

        Each frame has the complete configuration of every listener, with the sockets that the worker has so far.
        """
        wanted = {each.bind: each for group in sockets.values() for each in group}
        identities = {bind: identity(each.sock) for bind, each in wanted.items()}
        known = {bind: each for bind, each in self._sockets.items() if identities.get(bind) == each}
        wanted_listeners = {
            name: {**settings, "sockets": sorted(each.bind for each in sockets.get(name, ()))}
            for name, settings in listeners.items()
        }
        if (wanted_listeners, grace) == self._configured and self._sockets == identities:
            return
        if any(bind in wanted for bind in self._sockets.keys() - known.keys()):
            # A new socket has the address of an old one, which the worker has to close first.
            await self._send_listeners(wanted_listeners, grace, known, {})
        new = [each for bind, each in wanted.items() if bind not in known]
        while True:
            some, new = new[: wire.MAX_DESCRIPTORS], new[wire.MAX_DESCRIPTORS :]
            await self._send_listeners(
                wanted_listeners, grace, known, {each.bind: index for index, each in enumerate(some)}, some
            )
            known |= {each.bind: identities[each.bind] for each in some}
            if not new:
                break
        self._configured = wanted_listeners, grace

    async def _send_listeners(
        self,
        wanted_listeners: Mapping[str, Mapping[str, Any]],
        grace: float,
        known: Mapping[str, int],
        indexes: Mapping[str, int],
        new: Iterable[ListeningSocket] = (),
    ) -> None:
        listeners = {
            name: {
                **listener,
                "sockets": {
                    bind: indexes.get(bind) for bind in listener["sockets"] if bind in known or bind in indexes
                },
            }
            for name, listener in wanted_listeners.items()
        }
        await self._request("listen", {"listeners": listeners, "grace": grace}, [each.sock.fileno() for each in new])
        self._sockets = {**known, **{each.bind: identity(each.sock) for each in new}}

    def _on_event(self, message: Mapping[str, Any]) -> None:
        if message["event"] == "access":
            self._log.info("connection", every=True, **{key: value for key, value in message.items() if key != "event"})
        elif message["event"] == "log":
            level = message.get("level")
            log = getattr(self._log, level if level in ("debug", "info", "warning", "error") else "info")
            log(str(message.get("message", "")), pid=self.pid, **message.get("fields", {}))


def identity(sock: socket.socket) -> int:
    """Return a number that is equal for all descriptors of a socket, in any process."""
    return os.fstat(sock.fileno()).st_ino
