"""The succession of daemons on a run directory: taking over from the one before, handing over to the one after."""

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from structlog.typing import FilteringBoundLogger

from discovery.consuming.inheritance import Inheritance
from discovery.daemon.handover import HandoverRefusedError, HandoverServer, Successor
from discovery.daemon.running import RunningInstances
from discovery.daemon.settings import Settings
from discovery.daemon.takeover import take_over
from discovery.daemon.turn import StartTurn
from discovery.errors import CannotStartError
from discovery.hosting.isolation import BEGIN_SECONDS
from discovery.system import rundir, systemd

RELEASE_SECONDS = 60.0
"""Seconds to release everything for a successor, beyond what consumers take to stop; the successor gives up then."""


class Succession:
    """Takes sockets from a predecessor, and gives the sockets of the instances to a successor. For the core's loop."""

    def __init__(
        self,
        path: Path,
        log: FilteringBoundLogger,
        running: RunningInstances,
        *,
        stopping: Callable[[], bool],
        release: Callable[[], Awaitable[None]],
        leave: Callable[[int], None],
        release_records: Callable[[str | None], Sequence[str]],
        health: Callable[[], Mapping[str, Any]],
    ) -> None:
        """Prepare; `open` begins to listen for a successor at the Unix socket `path`.

        `stopping` returns True once the daemon ends by itself, which refuses a successor. `release` releases whatever
        the successor needs apart from the consumers' sockets, and keeps the daemon from taking it again. `leave` ends
        the daemon with an exit code, once the successor has the sockets. `release_records` gives up held records, and
        `health` returns the daemon's state, as `HandoverServer` asks for.
        """
        self._log = log
        self._running = running
        self._stopping = stopping
        self._release = release
        self._turn = StartTurn(path, log)
        self._draining: rundir.Lock | None = None
        self._keeping: asyncio.Task[None] | None = None
        self._server = HandoverServer(
            path,
            log,
            self._accept,
            self._hand_over,
            lambda received: leave(int(not received)),
            release_records,
            running.wait_until_settled,
            health,
        )

    @property
    def holder(self) -> int | None:
        """The process id of the daemon from which `--replace` would take over; None if there is none."""
        return self._server.holder

    @property
    def handing_over(self) -> bool:
        """True while a successor that was accepted waits for the sockets."""
        return self._server.busy

    async def wait_until_handed_over(self) -> None:
        """Wait until no successor waits for the sockets."""
        await self._server.wait_until_idle()

    async def inherit(self, settings: Settings, *, replace: bool) -> bool:
        """Wait for the turn to start; offer consumers the sockets of systemd and, with `replace`, of the predecessor.

        No other daemon starts on the run directory until `begun`. Returns False if this daemon is told to stop before.
        Raises CannotStartError if the predecessor does not hand over, or if another process takes over from it.
        """
        await self._turn.take(replace=replace, stopping=self._stopping)
        if self._stopping():
            return False
        sockets, faults = systemd.listen_fds()
        for fault in faults:
            self._log.warning("systemd passed what cannot be used", reason=fault)
        if replace:
            plugins = {each.name: each.plugin for each in settings.consumers.values()}
            plugins |= {each.name: each.plugin for each in settings.providers.values()}
            sockets += await take_over(self._server.path, plugins, self._log)
        self._running.inheritance = Inheritance(sockets)
        return True

    def open(self) -> None:
        """Listen for a successor. A daemon that cannot listen runs all the same, and says so in the log."""
        try:
            self._server.open()
        except CannotStartError as error:
            self._log.info("no other daemon can take over from this one", reason=str(error))

    def begun(self) -> None:
        """Let other daemons start: the instances hold their own locks. Idempotent."""
        self._turn.release()

    def close(self) -> None:
        """Listen no more, and leave the run directory. Idempotent."""
        self._turn.release()
        self._server.close()
        if self._draining is not None and self._keeping is not None:
            self._keeping.cancel()
            self._draining.release()

    def _accept(self, successor: Successor) -> float:
        """Return the seconds in which the sockets are handed over. Raises HandoverRefusedError."""
        if self._stopping():
            raise HandoverRefusedError("it is about to end; start again once it has")
        if successor.instances.keys().isdisjoint(names := self._running.names):
            what = f"it runs {', '.join(names)} and none of yours"
            raise HandoverRefusedError(f"{what}; stop it, or choose another --run-dir")
        return RELEASE_SECONDS + BEGIN_SECONDS + self._running.stop_seconds

    async def _hand_over(self, successor: Successor) -> tuple[socket.socket, ...]:
        """Release everything the successor needs; return the listening sockets. Registry records stay for it."""
        with suppress(CannotStartError):  # `discovery stop` finds by it what has no other lock any more
            path = self._server.path.with_name(f"{self._server.path.stem}.{os.getpid()}.draining.lock")
            self._draining = rundir.lock(path, "a daemon that was replaced")
            self._keeping = asyncio.create_task(rundir.keep(self._draining, path.parent, self._log))
        await self._release()
        sockets = await self._running.hand_over(successor.instances)
        self._server.close()
        return sockets
