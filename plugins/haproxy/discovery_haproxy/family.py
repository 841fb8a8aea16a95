"""Every HAProxy process of a run directory, of this daemon and of earlier ones: found, and stopped in order."""

import asyncio
import signal
import time
from collections.abc import Iterator
from contextlib import suppress

from structlog.typing import FilteringBoundLogger

from discovery.system.process import ProcessHandle
from discovery_haproxy import process
from discovery_haproxy.control import Control, ControlError

_IDLE_SECONDS = 1.0


class Family:
    """The processes that have the argument `mark`."""

    def __init__(self, control: Control, mark: str, log: FilteringBoundLogger) -> None:
        """`control` is their master's socket."""
        self._control = control
        self._mark = mark
        self._log = log

    def processes(self) -> list[process.Process]:
        """Those that run now."""
        return process.find(self._mark)

    async def stop(self, seconds: float) -> None:
        """Stop them: at once for new connections, for those that there are within so many seconds."""
        begun = time.monotonic()
        handles = list(hold(process.masters(self.processes())))
        for handle in handles:
            # SIGTERM would cut the requests in flight.
            process.send_signal(handle, signal.SIGUSR1)
        busy: int | None = None
        quiet = False
        while alive := [handle for handle in handles if handle.alive]:
            if await alive[0].wait(0.1):
                continue
            waited = time.monotonic() - begun
            was_quiet, busy = quiet, await self._streams()
            quiet = busy == 0 and len(alive) == 1
            # What is left then are idle clients, which their timeouts would let stay.
            if waited > seconds or (waited > _IDLE_SECONDS and quiet and was_quiet):
                break
        if alive:
            if busy:
                self._log.warning("connections were cut: they had not ended in time", count=busy, seconds=seconds)
            await self._end(alive)
        for handle in handles:
            handle.close()
        self._log.info("HAProxy stopped", seconds=round(time.monotonic() - begun, 1))

    async def _end(self, alive: list[ProcessHandle]) -> None:
        for handle in alive:
            process.send_signal(handle, signal.SIGTERM)
        await asyncio.gather(*(handle.wait(1.0) for handle in alive))
        # Normally none is left.
        for handle in hold(self.processes()):
            process.send_signal(handle, signal.SIGKILL)
            await handle.wait(0.2)
            handle.close()

    async def _streams(self) -> int | None:
        try:
            async with asyncio.timeout(0.5):
                processes = await self._control.processes()
                return sum([await self._control.streams(worker) for worker in (*processes.workers, *processes.old)])
        except (ControlError, TimeoutError):
            return None


def hold(processes: list[process.Process]) -> Iterator[ProcessHandle]:
    """A hold on each that still runs; to be closed."""
    for each in processes:
        with suppress(ProcessLookupError):
            yield ProcessHandle(each.pid, started=each.started)
