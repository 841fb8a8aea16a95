"""Announces this daemon: keeps a record of it in the registry, under a lease, as it is now."""

import asyncio
from collections.abc import Awaitable, Callable

from structlog.typing import FilteringBoundLogger

from discovery.errors import describe
from discovery.fleet.announcement import Announcement, backend_of
from discovery.providing.registrar import Registrar
from discovery.registry import Registry
from discovery.system.asyncio_tools import is_being_cancelled, wait_for_tasks
from discovery.system.backoff import delays
from discovery.system.owners import DefaultOwner

TTL = 10.0
"""Seconds after which a daemon that died is listed no more: as long as a provider's records by default."""
_LOOK_EVERY = 60.0
"""Seconds between two looks at the addresses of this machine: they change rarely."""
_LOOK_AGAIN = 5.0
"""Seconds until the next look while this machine has no address that others can reach, as at its boot."""
_STOP_SECONDS = 3.0
"""Seconds to withdraw the record; then its lease runs out."""


class Announcer:
    """Keeps a daemon announced from `start` until `stop`. For one event loop."""

    def __init__(
        self,
        registry: Registry,
        owner: DefaultOwner,
        announcement: Callable[[], Awaitable[Announcement]],
        log: FilteringBoundLogger,
    ) -> None:
        """Prepare. `announcement` returns the daemon as it is, and raises ValueError while it cannot be reached."""
        self._announcement = announcement
        self._log = log
        self._registrar = Registrar(registry, str(owner), TTL, log, succeeds=owner.succeeds)
        self._changed = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._fault: str | None = None
        self.announced: Announcement | None = None
        """The daemon as announced last."""

    @property
    def problem(self) -> str | None:
        """The reason why the record does not stand, or is not up to date; None if it does."""
        if self._fault is not None:
            return self._fault
        if self._registrar.status.failing:
            return describe(next(iter(self._registrar.status.failing.values())))
        return None if self._registrar.status.registered else "not written yet"

    def start(self) -> None:
        """Begin."""
        self._tasks = [asyncio.create_task(self._follow()), asyncio.create_task(self._register())]

    def look(self) -> None:
        """Look now whether the daemon is another than announced."""
        self._changed.set()

    async def stop(self, *, keep: bool) -> None:
        """Stop; withdraw the record, or `keep` it for a successor of the same owner. Idempotent."""
        if keep:
            self._registrar.keep_records()
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await wait_for_tasks(tasks, _STOP_SECONDS)

    async def _follow(self) -> None:
        while True:
            self._changed.clear()
            try:
                announcement = await self._announcement()
            except Exception as error:  # noqa: BLE001 - whatever is wrong with the addresses may be right again
                reason = str(error) if isinstance(error, ValueError) else describe(error)
                if reason != self._fault:
                    self._log.warning("cannot announce this daemon, trying again", reason=reason)
                self._fault = reason
            else:
                self._fault = None
                if announcement != self.announced:
                    self.announced = announcement
                    self._registrar.set([backend_of(announcement)])
            try:
                async with asyncio.timeout(_LOOK_EVERY if self._fault is None else _LOOK_AGAIN):
                    await self._changed.wait()
            except TimeoutError:
                pass

    async def _register(self) -> None:
        waits = delays()
        while not is_being_cancelled():
            try:
                await self._registrar.run()
            except Exception as error:  # noqa: BLE001 - a fault of ours ends no daemon
                self._fault = describe(error)
                self._log.error("cannot announce this daemon", reason=self._fault, exc_info=error)
                await asyncio.sleep(0 if is_being_cancelled() else next(waits))
