"""Supervision of a managed HAProxy: restart after an unexpected end, with growing delays."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from itertools import chain, repeat

from structlog.typing import FilteringBoundLogger

from discovery import ApplyError
from discovery.toolkit import ProcessHandle, cancel_and_wait
from discovery_haproxy.program.control_socket import ControlError

_STABLE_SECONDS = 60.0
"""Seconds of uptime after which a crash counts as the first crash again, and the restart has no delay."""


class Supervisor:
    """Watches the master process and restarts HAProxy after an unexpected end. Belongs to one event loop."""

    def __init__(
        self,
        restart: Callable[[], Awaitable[bool]],
        last_log_line: Callable[[], str],
        request_apply: Callable[[], None],
        lock: asyncio.Lock,
        log: FilteringBoundLogger,
        delays: Sequence[float],
    ) -> None:
        """Store the arguments; `start` begins the supervision.

        `restart` starts HAProxy and calls `watch`; `restart` returns False if there is no proven configuration to start
        HAProxy with. `request_apply` asks for a deployment, which may succeed where a restart fails: a deployment
        renders the configuration again, and leaves out an address that another process has taken. `lock` excludes
        restarts during a deployment, and the reverse. `delays` are the seconds before each restart, of which the last
        repeats.
        """
        self._restart = restart
        self._last_log_line = last_log_line
        self._request_apply = request_apply
        self._lock = lock
        self._log = log
        self._delays = delays
        self._handle: ProcessHandle | None = None
        self._handle_set = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._failure: str | None = None

    @property
    def handle(self) -> ProcessHandle | None:
        """The watched master process, which may have ended; None before the first start."""
        return self._handle

    @property
    def running(self) -> bool:
        """Report whether the watched master process runs."""
        return self._handle is not None and self._handle.alive

    @property
    def failure(self) -> str | None:
        """Reason why HAProxy does not run; None while it runs."""
        return self._failure

    def watch(self, handle: ProcessHandle) -> None:
        """Watch this master process from now on, and close the handle of the previous process."""
        previous, self._handle = self._handle, handle
        if previous is not None:
            previous.close()
        self._failure = None
        self._handle_set.set()

    def start(self) -> None:
        """Begin the supervision on the running event loop."""
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """End the supervision. HAProxy goes on running."""
        if self._task is not None:
            await cancel_and_wait(self._task)

    def close(self) -> None:
        """Close the handle of the master process, which goes on running."""
        if self._handle is not None:
            self._handle.close()

    async def _run(self) -> None:
        delays = self._new_delays()
        while True:
            await self._handle_set.wait()
            handle, since = self._handle, time.monotonic()
            if handle is None:
                return
            await handle.wait()
            if time.monotonic() - since > _STABLE_SECONDS:
                delays = self._new_delays()
            async with self._lock:
                if self.running:
                    continue
                if self._failure is None:
                    self._report_end(handle)
            await asyncio.sleep(next(delays))
            async with self._lock:
                if not self.running:
                    await self._try_restart()

    def _new_delays(self) -> Iterator[float]:
        return chain(self._delays, repeat(self._delays[-1]))

    def _report_end(self, handle: ProcessHandle) -> None:
        self._failure = "HAProxy has ended unexpectedly and is being restarted"
        self._log.error(self._failure, pid=handle.pid, last=self._last_log_line())

    async def _try_restart(self) -> None:
        try:
            if not await self._restart():
                self._handle_set.clear()  # the next deployment starts HAProxy
                self._request_apply()
        except (ApplyError, ControlError, OSError) as error:
            failure = f"HAProxy has ended and cannot be restarted: {error}"
            if failure != self._failure:
                self._log.error(failure)
                self._request_apply()
            self._failure = failure
