"""The worker processes of a consumer: as many as configured, all with the same desired state."""

import asyncio
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from structlog.typing import FilteringBoundLogger

from discovery import ApplyError, describe
from discovery.toolkit import wait_for_tasks
from discovery_tcpproxy.sums import Figures, add, counters_of
from discovery_tcpproxy.timing import TIMING, Timing
from discovery_tcpproxy.worker_process import WorkerProcess
from discovery_tcpproxy.worker_slot import DesiredState, SlotContext, WorkerSlot

_RETIREMENT = 7 * 86400.0
"""Seconds that the connections of a surplus worker have: a week, longer than any connection that matters."""


class WorkerPool:
    """Pool of worker processes. All methods run on one event loop, except `figures`, which any thread may call."""

    def __init__(self, run_dir: Path, log: FilteringBoundLogger, timing: Timing = TIMING) -> None:
        """Create an empty pool; `adopt` and `apply` fill it.

        The next daemon finds the workers in `run_dir`.
        """
        self._log = log
        self._timing = timing
        self._desired: DesiredState | None = None
        self._slots: list[WorkerSlot] = []
        self._ended_workers: Figures = {}
        self._totals_lock = threading.Lock()
        self._replaced = 0
        self._stopping = False
        self._context = SlotContext(
            run_dir, log, timing, lambda: self._desired, lambda: self._stopping, self._on_ended, self._on_failed
        )

    @property
    def running(self) -> tuple[WorkerProcess, ...]:
        """Workers that run."""
        return tuple(worker for slot in tuple(self._slots) if (worker := slot.running) is not None)

    @property
    def problems(self) -> tuple[str, ...]:
        """Faults of the workers, one line each."""
        return tuple(problem for slot in self._slots for problem in (slot.problem, slot.refusal) if problem is not None)

    @property
    def has_refused(self) -> bool:
        """True while a running worker does not have the desired state because it has refused the state."""
        return any(slot.refusal is not None and slot.running is not None for slot in self._slots)

    @property
    def replaced(self) -> int:
        """Number of workers that have ended without an order, or could not be started."""
        return self._replaced

    def figures(self) -> Figures:
        """Return the sums of the last reports, including those of workers that have ended. Any thread may call."""
        with self._totals_lock:
            total = self._ended_workers
            reports = [slot.worker.report for slot in self._slots if slot.worker is not None]
        for report in reports:
            total = add(total, report)
        return total

    async def adopt(self, workers: Iterable[WorkerProcess]) -> None:
        """Take over workers of an earlier daemon. Workers of another build are stopped and get successors."""
        for worker in workers:
            worker.number = sum(1 for _ in self._current())
            slot = self._add(worker.number, worker, retired=worker.is_other_build or worker.stopped)
            if worker.is_other_build:
                self._log.info("a worker of other code ends with its last connection", pid=worker.pid)
                await slot.stop(_RETIREMENT)
            else:
                self._log.info("took over a worker of an earlier daemon", pid=worker.pid)

    async def apply(self, desired: DesiredState) -> None:
        """Give the workers this state, and return when every worker that answers has confirmed the state.

        Raises ApplyError if no worker has taken the state, or if a worker refuses it.
        """
        self._desired = desired
        await self._resize(desired.config.workers)
        for _ in range(2):  # the second time for the successors of workers that ended during the first
            if await self._send_to_all():
                return
        raise ApplyError(f"no worker runs: {', '.join(self.problems) or 'all have ended'}")

    async def reports(self, *, connections: bool) -> list[tuple[WorkerProcess, Mapping[str, Any]]]:
        """Return a new report of each worker that answers, with the list of connections if asked for."""
        workers = self.running
        answers = await asyncio.gather(
            *(worker.fetch_report(connections=connections) for worker in workers), return_exceptions=True
        )
        return [(worker, each) for worker, each in zip(workers, answers, strict=True) if isinstance(each, Mapping)]

    async def stop(self, grace: float, *, end_idle: bool = False) -> None:
        """Tell all workers to stop accepting and to end with their last connection, after `grace` seconds at most.

        With `end_idle` the workers close idle connections.
        """
        self._stopping = True
        for slot in self._slots:
            if slot.running is None:
                slot.supervision.cancel()
        await asyncio.gather(*(slot.stop(grace, end_idle=end_idle) for slot in self._slots))

    async def close(self, timeout: float) -> None:
        """Wait up to `timeout` seconds for the end of stopped workers, and kill the workers that remain."""
        self._stopping = True
        workers = self.running
        await asyncio.gather(*(worker.wait(timeout) for worker in workers))
        slots = tuple(self._slots)
        for slot in slots:
            slot.supervision.cancel()
        await asyncio.gather(*(slot.supervision for slot in slots), return_exceptions=True)
        await asyncio.gather(*(worker.close() for worker in workers))
        await asyncio.gather(*(slot.sending for slot in slots if slot.sending is not None), return_exceptions=True)
        self._slots = []

    def _current(self) -> Iterator[WorkerSlot]:
        return (slot for slot in self._slots if not slot.retired)

    def _add(self, number: int, worker: WorkerProcess | None = None, *, retired: bool = False) -> WorkerSlot:
        slot = WorkerSlot(number, self._context, worker, retired=retired)
        slot.supervision.add_done_callback(lambda _: self._remove_if_retired(slot))
        self._slots.append(slot)
        return slot

    def _remove_if_retired(self, slot: WorkerSlot) -> None:
        if slot.retired and slot in self._slots:
            self._slots.remove(slot)

    def _on_ended(self, slot: WorkerSlot) -> None:
        """Move the counters of an ended worker to the totals, in one step: `figures` counts each worker once."""
        with self._totals_lock:
            if slot.worker is not None:
                self._ended_workers = add(self._ended_workers, counters_of(slot.worker.report))
            slot.worker = None

    def _on_failed(self) -> None:
        self._replaced += 1

    async def _resize(self, count: int) -> None:
        existing = {slot.number for slot in self._current()}
        for slot in [slot for slot in self._current() if slot.number >= count]:
            slot.retired = True
            if slot.running is not None:
                self._log.info("a surplus worker ends with its last connection", pid=slot.running.pid)
                stopping = asyncio.create_task(slot.stop(_RETIREMENT))
                await wait_for_tasks({stopping}, self._timing.stragglers)
            else:
                slot.supervision.cancel()
        for number in range(count):
            if number not in existing:
                self._add(number)

    async def _send_to_all(self) -> bool:
        """Send the desired state to every worker; return True if a worker has taken it. Raises ApplyError.

        Waits until one worker has taken the state, and then for the other workers up to `Timing.stragglers`.
        """
        deadline = time.monotonic() + self._timing.stragglers
        started = self._start_sending()
        pending = {slot.sending for slot in self._current() if slot.sending is not None}
        taken = False
        while pending and not taken:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            taken = True in [_has_taken(each) for each in done]  # all of them, so that a refusal is raised
        if stragglers := pending & started:
            remaining = max(0.0, deadline - time.monotonic())
            await asyncio.wait(stragglers, timeout=remaining, return_when=asyncio.FIRST_EXCEPTION)
            for each in pending:
                if each.done():
                    _has_taken(each)
        return taken

    def _start_sending(self) -> set["asyncio.Task[bool]"]:
        """Send to each worker, except where an earlier task still sends, which will send the latest state."""
        return {
            slot.start_sending()
            for slot in tuple(self._slots)
            if (slot.sending is None or slot.sending.done()) and (not slot.retired or slot.running is not None)
        }


def _has_taken(sending: "asyncio.Task[bool]") -> bool:
    """Return True if a worker has taken the state. Raises ApplyError if the worker refuses."""
    error = sending.exception()
    if error is not None:
        raise ApplyError(f"a worker refuses its configuration: {describe(error)}") from error
    return sending.result()
