"""Slot of the worker pool: starts or adopts a worker, supervises the worker, and replaces a worker that has ended."""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from structlog.typing import FilteringBoundLogger

from discovery import DiscoveryError, describe
from discovery.toolkit import delays, wait_for_event
from discovery_tcpproxy.channel import CommandRefusedError, WorkerError, WorkerGoneError
from discovery_tcpproxy.config import TcpProxyConfig
from discovery_tcpproxy.targets import Targets, settings
from discovery_tcpproxy.timing import Timing
from discovery_tcpproxy.worker.adoption_socket import socket_path
from discovery_tcpproxy.worker_process import Sockets, WorkerProcess

_STABLE = 10.0
"""Seconds after which the end of a worker is no failed start: its successor starts without a delay."""
_FIRST_DELAY, _MOST_DELAY = 0.1, 10.0
"""Seconds until a failed start is repeated: the first delay, and the limit of the doubled delays."""
_EXIT_TIMEOUT = 1.0
"""Seconds for a worker that has closed its channel to end by itself, so that its exit code is known."""


@dataclass(frozen=True, slots=True)
class DesiredState:
    """Desired state of the workers."""

    config: TcpProxyConfig
    sockets: Sockets
    targets: Targets


@dataclass(frozen=True, slots=True)
class SlotContext:
    """Parameters and callbacks that the pool gives to its slots."""

    run_dir: Path
    """Directory in which the next daemon finds the workers."""
    log: FilteringBoundLogger
    timing: Timing
    desired: Callable[[], DesiredState | None]
    """Returns the state that workers should have now."""
    is_stopping: Callable[[], bool]
    """Returns True once workers are not to be replaced any more."""
    on_ended: Callable[["WorkerSlot"], None]
    """Called when the worker of a slot has ended; takes the worker out of the slot."""
    on_failed: Callable[[], None]
    """Called when a worker has ended that should have gone on, or could not be started."""


class WorkerSlot:
    """Supervisor of a single worker at a time. A successor takes over the share of the limits."""

    def __init__(
        self, number: int, context: SlotContext, worker: WorkerProcess | None = None, *, retired: bool = False
    ) -> None:
        """Create the slot `number` (from 0), with an adopted worker or without any, and start the supervision.

        The worker of a `retired` slot has no successor.
        """
        self.number = number
        self.worker = worker
        self.problem: str | None = None
        """Fault of the slot in one line, None if there is none."""
        self.refusal: str | None = None
        """Why the worker does not have the desired state, in one line; None unless the worker has refused the state."""
        self.retired = retired
        self.sending: asyncio.Task[bool] | None = None
        """Task that sends the desired state to the worker, the last that was started."""
        self._context = context
        self._failures = 0
        self._start_now = asyncio.Event()
        self._attempted = asyncio.Event()  # the worker has the desired state, or an attempt to start one has failed
        self.supervision = asyncio.create_task(self._supervise(), name=f"worker {number}")

    @property
    def running(self) -> WorkerProcess | None:
        """Worker of the slot, or None if no worker runs."""
        worker = self.worker
        return worker if worker is not None and worker.alive else None

    def start_sending(self) -> "asyncio.Task[bool]":
        """Start to send the desired state. The result is True if a worker has taken the state, False if none runs.

        The task raises CommandRefusedError if the worker refuses. It is not cancelled with its caller: a partial frame
        would end the worker.
        """
        self.sending = asyncio.create_task(self._send(), name=f"configure worker {self.number}")
        self.sending.add_done_callback(self._record_refusal)
        return self.sending

    async def stop(self, grace: float, *, end_idle: bool = False) -> None:
        """Tell the worker, which runs, to stop accepting and to end with its last connection.

        See `WorkerProcess.stop`. A worker that does not answer is killed.
        """
        worker = self.running
        if worker is not None:
            try:
                await worker.stop(grace, end_idle=end_idle)
            except (WorkerError, CommandRefusedError) as error:
                await self._terminate(worker, error)

    async def _send(self) -> bool:
        if self.running is None:
            self._attempted.clear()
            self._start_now.set()
        await self._attempted.wait()
        worker = self.running
        if worker is None or self._context.desired() is None:
            return False
        try:
            await self._send_to(worker)
        except WorkerError as error:
            await self._terminate(worker, error)
            return False
        return True

    async def _send_to(self, worker: WorkerProcess) -> None:
        """Send the desired state, and repeat this if the state has changed meanwhile."""
        sent: DesiredState | None = None
        while sent is not (desired := self._context.desired()) and desired is not None:
            sent = desired
            listeners = settings(desired.config, worker.number)
            await worker.configure(listeners, desired.sockets, desired.targets, desired.config.grace)
        self.refusal = None

    def _record_refusal(self, sending: "asyncio.Task[bool]") -> None:
        error = None if sending.cancelled() else sending.exception()
        if error is not None:
            before = self.refusal
            self.refusal = f"worker {self.number + 1} refuses its configuration: {describe(error)}"
            if self.refusal != before:  # the attempt is repeated every second
                self._context.log.error("a worker refuses its configuration", reason=describe(error))

    def _is_over(self) -> bool:
        return self.retired or self._context.is_stopping()

    async def _supervise(self) -> None:
        """Run a worker in this slot, and successors of workers that end."""
        waits = delays(_FIRST_DELAY, _MOST_DELAY)
        try:
            while self.worker is not None or not self._is_over():  # an adopted worker is there already
                started = time.monotonic()
                await self._run_worker()
                if self._is_over():
                    return
                if time.monotonic() - started > _STABLE:
                    waits = delays(_FIRST_DELAY, _MOST_DELAY)
                elif self._failures > 1:  # the first worker that fails is replaced at once
                    await wait_for_event(self._start_now, next(waits))
                self._start_now.clear()
        finally:
            self._attempted.set()

    async def _run_worker(self) -> None:
        """Run a worker, started here or adopted: send the desired state, and watch the worker until its end."""
        context, worker = self._context, self.worker
        try:
            if worker is None:
                worker = self.worker = WorkerProcess.start(self.number, context.run_dir, context.log, context.timing)
            await self._send_to(worker)
            self.problem = None
            self._attempted.set()
            await self._watch(worker)
        except Exception as error:
            if not isinstance(error, OSError | DiscoveryError):
                context.log.error("the supervision of a worker failed", reason=describe(error), exc_info=error)
            if worker is not None:
                await self._terminate(worker, error)
            self._attempted.set()
            self.problem = f"worker {self.number + 1}: {describe(error)}"
        finally:
            if worker is not None:
                await worker.close()
                with suppress(OSError):  # a worker that was killed has left its socket
                    socket_path(context.run_dir, worker.pid).unlink()
                context.on_ended(self)
            self.refusal = None
        if not self._is_over():
            self._failures += 1
            context.on_failed()
            reason = worker.status if worker is not None else self.problem
            self.problem = self.problem or f"worker {self.number + 1} has ended: {reason}"
            context.log.error("a worker has ended, and is replaced", worker=self.number + 1, reason=reason)

    async def _watch(self, worker: WorkerProcess) -> None:
        while worker.alive:
            with suppress(CommandRefusedError):
                await worker.fetch_report()
            await worker.wait(self._context.timing.report)

    async def _terminate(self, worker: WorkerProcess, error: BaseException) -> None:
        """Kill a worker after an error, but give a worker that is ending time to end by itself."""
        if isinstance(error, WorkerGoneError):
            await worker.wait(_EXIT_TIMEOUT)
        if worker.alive:
            self._context.log.error("a worker is killed", pid=worker.pid, reason=describe(error))
            worker.kill()
