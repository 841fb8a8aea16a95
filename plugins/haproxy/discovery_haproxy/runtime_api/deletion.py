"""Deletion of removed servers, which stay in maintenance until their last connection has ended."""

import asyncio
import time
from collections.abc import Callable, Collection, MutableMapping
from contextlib import AbstractAsyncContextManager, suppress

from structlog.typing import FilteringBoundLogger

from discovery.toolkit import cancel_and_wait
from discovery_haproxy.limits import LIMITS
from discovery_haproxy.runtime_api.commands import delete
from discovery_haproxy.runtime_api.connection import Connection, RuntimeApiError
from discovery_haproxy.runtime_api.defects import Broken, defect, dotted
from discovery_haproxy.runtime_api.planner import ServerKey
from discovery_haproxy.text.server_line import Server

_MOST_DELAY = 60.0
"""Most seconds between two attempts to delete a server. The delay doubles with each attempt."""
_AT_ONCE = 50
"""Deletions during which no configuration is deployed: 5 ms."""


def too_many(waiting: int, version: tuple[int, ...], most: int = LIMITS.removed_servers) -> str:
    """Return why a reload is better than more than `most` removed servers, in words; empty if there are fewer."""
    if waiting <= most:
        return ""
    if found := defect(Broken.DELETION, version):
        return f"more than {most} removed servers, and {found.symptom} (version {dotted(version)})"
    return f"more than {most} removed servers have connections"


class DueTimes:
    """The times at which removed servers are to be deleted: when they are old enough, and then ever later."""

    def __init__(self, period: float = LIMITS.deletion) -> None:
        """Start without a server. `period` is the least age of a removed server, in seconds."""
        self._period = period
        self._times: dict[ServerKey, tuple[float, float]] = {}

    def due(self, waiting: Collection[ServerKey], now: float) -> list[ServerKey]:
        """Return the servers of `waiting` that are due now, and forget the others that were."""
        known = self._times
        self._times = {key: known.get(key, (now + self._period, self._period)) for key in waiting}
        due = [key for key, (then, _) in self._times.items() if then <= now]
        for key in due:
            delay = min(2 * self._times[key][1], _MOST_DELAY)
            self._times[key] = now + delay, delay
        return due

    def forget(self, key: ServerKey) -> None:
        """Note that the server was removed just now."""
        self._times.pop(key, None)


class Deletion:
    """The task that deletes removed servers. Belongs to one event loop."""

    def __init__(
        self,
        connect: Callable[[], AbstractAsyncContextManager[Connection]],
        lock: asyncio.Lock,
        waiting: Callable[[], MutableMapping[ServerKey, Server | None]],
        log: FilteringBoundLogger,
        period: float,
    ) -> None:
        """Store the arguments. `lock` is held for some deletions. `waiting` returns the removed servers.

        `period` is the time between two rounds in seconds, and the least age of a removed server.
        """
        self._connect = connect
        self._lock = lock
        self._waiting = waiting
        self._period = period
        self._times = DueTimes(period)
        self._task: asyncio.Task[None] | None = None
        self._log = log
        self._told = False

    def begin(self, removed: Collection[ServerKey] = ()) -> None:
        """Delete the removed servers, of which `removed` were removed just now, when they are old enough."""
        for key in removed:
            self._times.forget(key)
        if self._waiting() and (self._task is None or self._task.done()):
            self._task = asyncio.create_task(self._delete())

    async def stop(self) -> None:
        """End the deletion. HAProxy keeps the servers that are left."""
        if self._task is not None:
            await cancel_and_wait(self._task)

    async def _delete(self) -> None:
        while self._waiting():
            keys = self._times.due(self._waiting(), time.monotonic())
            for begin in range(0, len(keys), _AT_ONCE):
                async with self._lock:
                    # A worker that does not answer is asked again.
                    with suppress(RuntimeApiError):
                        if not await self._delete_some(keys[begin : begin + _AT_ONCE]):
                            return
            await asyncio.sleep(self._period)

    async def _delete_some(self, keys: list[ServerKey]) -> bool:
        """Delete those of `keys` that still wait and have no connection. Return False if HAProxy must delete none."""
        async with self._connect() as connection:
            version = (await connection.worker()).version
            if found := defect(Broken.DELETION, version):
                if not self._told:
                    self._log.info("removed servers stay until a reload", reason=found.symptom, version=dotted(version))
                self._told = True
                return False
            for key in keys:
                if key in self._waiting():
                    answer = await connection.ask(delete(key))
                    if "Server deleted" in answer or "No such server" in answer:
                        self._waiting().pop(key, None)
        return True
