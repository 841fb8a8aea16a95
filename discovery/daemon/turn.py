"""The turn to start: the daemons of one run directory start one after the other, and one successor at a time."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

from structlog.typing import FilteringBoundLogger

from discovery.errors import CannotStartError
from discovery.system import rundir

START_SECONDS = 150.0
"""Seconds to wait for the start of another daemon: more than a hand-over may take, in which 60 s go to consumers."""
_RETRY_DELAY = 0.05
"""Seconds between two attempts to take a lock that another daemon holds for the moment of its start."""

_UNKNOWN_SECONDS = 1.0
"""Seconds in which a process that takes a lock, or releases it, may not be named there."""

DRAINING_LOCKS = "*.draining.lock"
"""The locks of daemons that were replaced and let their connections end, as a pattern of file names."""
DAEMON_LOCKS = ("*.sock.lock", "*.start.lock", "*.successor.lock", DRAINING_LOCKS)
"""The locks in a run directory that daemons alone hold, as patterns of file names."""


class StartTurn:
    """Two locks: `start` is held by a daemon while it starts, `successor` besides by one that takes over.

    A daemon holds them until its instances have their own locks. So no daemon begins while a predecessor has left the
    run directory and its successor has not yet taken it.
    """

    def __init__(self, socket_path: Path, log: FilteringBoundLogger) -> None:
        """Prepare for the daemon whose Unix socket is `socket_path`."""
        self._path = socket_path
        self._log = log
        self._held: list[rundir.Lock] = []

    async def take(self, *, replace: bool, stopping: Callable[[], bool]) -> None:
        """Wait for the turn; with `replace`, also become the successor. Returns early once `stopping` returns True.

        Raises CannotStartError if another process is the successor, or if a start takes too long.
        """
        if replace and (pid := await self._lock("successor", "a successor", 0.0, stopping)) is not None:
            raise CannotStartError(f"process {pid} is taking over already; start again once it has")
        if (pid := await self._lock("start", "the start of a daemon", START_SECONDS, stopping)) is not None:
            self.release()
            raise CannotStartError(f"process {pid} has been starting on this run directory for {START_SECONDS:g} s")

    def release(self) -> None:
        """Let the next daemon start. Idempotent."""
        while self._held:
            self._held.pop().release()

    async def _lock(self, what: str, purpose: str, timeout: float, stopping: Callable[[], bool]) -> int | None:
        """Take a lock within `timeout` seconds. Return None, or the process that holds it. Raises CannotStartError."""
        path = self._path.with_name(f"{self._path.stem}.{what}.lock")
        begun = time.monotonic()
        told: int | None = None
        while not stopping():
            try:
                self._held.append(rundir.lock(path, purpose))
            except CannotStartError:
                waited = time.monotonic() - begun
                pid = rundir.holder(path)
                if pid is None and waited > timeout + _UNKNOWN_SECONDS:
                    raise  # it cannot be made
                if pid is not None and waited >= timeout:
                    return pid
                if pid is not None and pid != told:
                    self._log.info("waiting for another daemon, which is starting", pid=pid)
                    told = pid
            else:
                return None
            await asyncio.sleep(_RETRY_DELAY)
        return None
