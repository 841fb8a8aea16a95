"""The worker processes: as many as there are to be, told what they are to do, replaced when they die or hang."""

import asyncio
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from structlog.typing import FilteringBoundLogger

from discovery import ApplyError, DiscoveryError, describe
from discovery.toolkit import delays
from discovery_tcpproxy.channel import GoneError, RefusedError, WorkerError
from discovery_tcpproxy.config import TcpProxyConfig
from discovery_tcpproxy.sums import Figures, add, left_of
from discovery_tcpproxy.targets import Targets, settings
from discovery_tcpproxy.worker.adoption_socket import socket_path
from discovery_tcpproxy.worker_process import PATIENCE, Sockets, WorkerProcess

POLL = 1.0
"""Seconds between two looks at a worker's figures, by which it also shows that it does not hang."""
_LIVED = 10.0
"""Seconds after which a worker that dies has not failed to start."""
_TO_EXIT = 1.0
_LATE = 2.0
"""Seconds after which a worker that has not answered is no longer waited for where another has."""
_FOR_EVER = 7 * 86400.0
"""Seconds that the connections of a worker too many may go on."""


@dataclass(frozen=True, slots=True)
class Desired:
    """The desired state of the workers."""

    config: TcpProxyConfig
    sockets: Sockets
    targets: Targets


@dataclass
class _Place:
    """The place of a worker. When a worker ends, its successor takes the place."""

    number: int
    worker: WorkerProcess | None = None
    problem: str | None = None
    retired: bool = False
    deaths: int = 0
    wanted: asyncio.Event = field(default_factory=asyncio.Event)
    """Set to start the next attempt at once."""
    tried: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once a worker was told everything, or could not be."""
    keeper: "asyncio.Task[None] | None" = None
    telling: "asyncio.Task[bool] | None" = None


class Workers:
    """Starts, tells, watches and replaces them. Everything on one loop, but for the figures."""

    def __init__(self, run_dir: Path, log: FilteringBoundLogger, patience: float = PATIENCE) -> None:
        """None runs before `adopt` or `be`; in `run_dir` the next daemon finds them.

        `patience` is how many seconds one may take for an answer.
        """
        self._run_dir = run_dir
        self._log = log
        self._patience = patience
        self._desired: Desired | None = None
        self._places: list[_Place] = []
        self._gone: Figures = {}
        self._counting = threading.Lock()
        self._replaced = 0
        self._stopping = False

    @property
    def alive(self) -> tuple[WorkerProcess, ...]:
        """Those that run."""
        return tuple(place.worker for place in tuple(self._places) if place.worker is not None and place.worker.alive)

    @property
    def problems(self) -> tuple[str, ...]:
        """The faults of the workers, one line each."""
        return tuple(place.problem for place in self._places if place.problem is not None)

    @property
    def replaced(self) -> int:
        """The number of workers that have died."""
        return self._replaced

    def figures(self) -> Figures:
        """The sums of what they last reported, those of the dead included; from any thread."""
        with self._counting:
            total = self._gone
            reports = [place.worker.report for place in self._places if place.worker is not None]
        for report in reports:
            total = add(total, report)
        return total

    async def adopt(self, workers: Iterable[WorkerProcess]) -> None:
        """Look after those of an earlier daemon. Those of other code (`mute`) end, and new ones take their place."""
        for worker in workers:
            place = _Place(sum(1 for _ in self._current()), worker=worker, retired=worker.mute or worker.stopped)
            worker.number = place.number
            place.keeper = asyncio.create_task(self._keep(place), name=f"worker {place.number}")
            self._places.append(place)
            if worker.mute:
                self._log.info("a worker of other code ends with its last connection", pid=worker.pid)
                await self._stop(worker, _FOR_EVER)
            else:
                self._log.info("took over a worker of an earlier daemon", pid=worker.pid)

    async def be(self, desired: Desired) -> None:
        """Make it so; done when every worker that lives has said so. Raises ApplyError if none does, or one refuses."""
        self._desired = desired
        await self._resize(desired.config.workers)
        for _ in range(2):  # the second time those are told that came in place of any that died of the first
            if await self._tell_all():
                return
        raise ApplyError(f"no worker runs: {', '.join(self.problems) or 'they died'}")

    async def reports(self, *, connections: bool) -> list[tuple[WorkerProcess, Mapping[str, Any]]]:
        """The present report of each worker that answers."""

        async def one(worker: WorkerProcess) -> Mapping[str, Any]:
            return await worker.ask_report(connections=connections)

        workers = self.alive
        answers = await asyncio.gather(*map(one, workers), return_exceptions=True)
        return [(worker, each) for worker, each in zip(workers, answers, strict=True) if isinstance(each, Mapping)]

    async def stop(self, grace: float, *, end_idle: bool = False) -> None:
        """Let all stop accepting; they end when their connections have, after `grace` seconds in any case.

        With `end_idle` they close those that are idle.
        """
        self._stopping = True
        for place in self._places:
            if place.keeper is not None and (place.worker is None or not place.worker.alive):
                place.keeper.cancel()
        await asyncio.gather(*(self._stop(worker, grace, end_idle=end_idle) for worker in self.alive))

    async def close(self, patience: float) -> None:
        """Wait up to `patience` seconds until those that were stopped have ended, and end the others."""
        self._stopping = True
        workers = self.alive
        if workers:
            ended = [asyncio.ensure_future(worker.ended.wait()) for worker in workers]
            _, late = await asyncio.wait(ended, timeout=patience)
            for each in late:
                each.cancel()
        for place in self._places:
            if place.keeper is not None:
                place.keeper.cancel()
        await asyncio.gather(
            *(place.keeper for place in self._places if place.keeper is not None), return_exceptions=True
        )
        await asyncio.gather(*(worker.close() for worker in workers))
        telling = [place.telling for place in self._places if place.telling is not None]
        await asyncio.gather(*telling, return_exceptions=True)
        self._places = []

    def _current(self) -> Iterator[_Place]:
        return (place for place in self._places if not place.retired)

    async def _resize(self, count: int) -> None:
        have = {place.number for place in self._current()}
        for place in [place for place in self._current() if place.number >= count]:
            place.retired = True
            if place.worker is not None and place.worker.alive:
                self._log.info("a worker too many ends with its last connection", pid=place.worker.pid)
                stopping = asyncio.create_task(self._stop(place.worker, _FOR_EVER))
                await asyncio.wait({stopping}, timeout=_LATE)
            elif place.keeper is not None:
                place.keeper.cancel()
        for number in range(count):
            if number not in have:
                place = _Place(number)
                place.keeper = asyncio.create_task(self._keep(place), name=f"worker {number}")
                self._places.append(place)

    async def _tell_all(self) -> bool:
        """Send the desired state to every worker. Returns whether one has taken it; waits for none that hangs."""
        fresh = set()
        for place in tuple(self._places):
            if place.telling is not None and not place.telling.done():
                continue  # it comes to what is desired now
            if not place.retired or (place.worker is not None and place.worker.alive):
                # It goes on should we be cancelled: half a frame would be the end of the worker.
                place.telling = asyncio.create_task(self._tell(place), name=f"tell worker {place.number}")
                place.telling.add_done_callback(self._was_told)
                fresh.add(place.telling)
        pending = {place.telling for place in self._current() if place.telling is not None}
        until = time.monotonic() + _LATE
        told = False
        while pending and not (told and (pending.isdisjoint(fresh) or time.monotonic() >= until)):
            patience = max(0.0, until - time.monotonic()) if told else None
            done, pending = await asyncio.wait(pending, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
            for error in [each.exception() for each in done]:
                if error is not None and not isinstance(error, WorkerError):
                    raise ApplyError(f"a worker refuses: {describe(error)}") from error
            told = told or any(each.exception() is None and each.result() for each in done)
        return told

    def _was_told(self, telling: "asyncio.Task[bool]") -> None:
        error = None if telling.cancelled() else telling.exception()
        if error is not None and not isinstance(error, WorkerError):
            self._log.error("a worker refuses what it is told", reason=describe(error))

    async def _tell(self, place: _Place) -> bool:
        """Send the state to the worker of this place, if there is one. The keeper sends it to a new worker."""
        if place.worker is None or not place.worker.alive:
            place.tried.clear()
            place.wanted.set()
        await place.tried.wait()
        worker = place.worker  # its keeper may let go of it meanwhile
        if worker is not None and worker.alive and self._desired is not None:
            try:
                await self._tell_worker(worker)
            except WorkerError as error:
                await self._end(worker, error)
                raise
            return True
        return False

    async def _tell_worker(self, worker: WorkerProcess) -> None:
        told: Desired | None = None
        while told is not (desired := self._desired) and desired is not None:
            told = desired
            settled = settings(desired.config, worker.number)
            await worker.tell(settled, desired.sockets, desired.targets, desired.config.grace)

    async def _keep(self, place: _Place) -> None:
        """Keep a worker running in this place."""
        waits = delays(0.1, 10.0)
        try:
            while place.worker is not None or not self._is_over(place):  # an adopted one is there already
                begun = time.monotonic()
                await self._one(place)
                if self._is_over(place):
                    return
                if time.monotonic() - begun > _LIVED:
                    waits = delays(0.1, 10.0)
                elif place.deaths > 1:  # the first is replaced at once
                    with suppress(TimeoutError):
                        async with asyncio.timeout(next(waits)):
                            await place.wanted.wait()
                place.wanted.clear()
        finally:
            place.tried.set()
            if place.retired and place in self._places:
                self._places.remove(place)

    def _is_over(self, place: _Place) -> bool:
        return self._stopping or place.retired

    async def _one(self, place: _Place) -> None:
        """One worker's life."""
        worker = place.worker
        told = False
        try:
            if worker is None:
                worker = place.worker = WorkerProcess.start(place.number, self._run_dir, self._log, self._patience)
            await self._tell_worker(worker)
            place.problem = None
            told = True
            place.tried.set()
            await self._watch(worker)
        except Exception as error:  # noqa: BLE001 - whatever it is, the place must not stay empty
            if not isinstance(error, OSError | DiscoveryError):
                self._log.error("a worker cannot be looked after", reason=describe(error), exc_info=error)
            if worker is not None:
                await self._end(worker, error)
            if not told:
                place.tried.set()
            place.problem = f"worker {place.number + 1}: {describe(error)}"
        finally:
            if worker is not None:
                await worker.close()
                with suppress(OSError):  # of one that was killed
                    socket_path(self._run_dir, worker.pid).unlink()
                with self._counting:  # so that nobody sees them twice, or not at all
                    self._gone = add(self._gone, left_of(worker.report))
                    place.worker = None
        if not self._is_over(place):
            place.deaths += 1
            self._replaced += 1
            how = worker.status if worker is not None else place.problem
            place.problem = place.problem or f"worker {place.number + 1} has ended: {how}"
            self._log.error("a worker has ended, and is replaced", worker=place.number + 1, reason=how)

    async def _watch(self, worker: WorkerProcess) -> None:
        while worker.alive:
            with suppress(RefusedError):
                await worker.ask_report()
            with suppress(TimeoutError):
                async with asyncio.timeout(POLL):
                    await worker.ended.wait()

    async def _stop(self, worker: WorkerProcess, grace: float, *, end_idle: bool = False) -> None:
        try:
            await worker.stop(grace, end_idle=end_idle)
        except (WorkerError, RefusedError) as error:
            await self._end(worker, error)

    async def _end(self, worker: WorkerProcess, error: BaseException) -> None:
        """End one that has failed us; one that ends by itself is left to it, so that we know how it did."""
        if isinstance(error, GoneError):
            with suppress(TimeoutError):
                async with asyncio.timeout(_TO_EXIT):
                    await worker.ended.wait()
        if worker.alive:
            self._log.error("a worker is killed", pid=worker.pid, reason=describe(error))
            worker.kill()
