"""The records under a lease, written and removed until the records equal the wanted records."""

import asyncio
from collections.abc import Callable, Mapping

from discovery.errors import (
    DiscoveryError,
    HandedOverError,
    LeaseLostError,
    OwnedByAnotherError,
    RecordError,
    RegistryError,
    RegistryUnavailableError,
)
from discovery.model import Backend
from discovery.registry import Lease

_AT_ONCE = 16
"""Keys that are written or deleted at the same time: enough to hide the round trip, and no flood for etcd."""
_NOTHING_NOW = (RegistryUnavailableError, LeaseLostError)


class Records:
    """The records under a lease, and the work that makes these equal to the wanted records."""

    def __init__(
        self,
        lease: Lease,
        force: Callable[[str], bool],
        succeeds: Callable[[str], bool],
        handed_over: Mapping[str, str],
    ) -> None:
        """Begin with none. `handed_over` has the new owners of keys that another owner has asked for."""
        self.written: dict[str, Backend] = {}
        """The keys that are certainly registered."""
        self._tried: dict[str, Backend] = {}  # may stand: what failed may have been done, and only its answer lost
        self._writing: dict[asyncio.Task[None], tuple[str, Backend | None]] = {}
        self._lease = lease
        self._force = force
        self._succeeds = succeeds
        self._handed_over = handed_over

    def forget(self, key: str) -> None:
        """Count `key` as not written: the record has another owner."""
        self.written.pop(key, None)
        self._tried.pop(key, None)

    def cancel_writes_except(self, wanted: Mapping[str, Backend]) -> None:
        """Cancel writes that are not wanted any more: a registry that answers late would still execute them."""
        for task, (key, backend) in self._writing.items():
            if wanted.get(key) != backend:
                task.cancel()

    async def write_differences(
        self, wanted: Mapping[str, Backend], replaced: Callable[[], bool]
    ) -> dict[str, DiscoveryError]:
        """Write what differs, several at once, until `wanted` is `replaced`. Returns what is refused, by key.

        Raises if nothing can be written now.
        """
        todo = [key for key in self._tried if key not in wanted]
        todo += [key for key, backend in wanted.items() if self.written.get(key) != backend]
        left = iter(todo)
        refused: dict[str, DiscoveryError] = {}
        stopped: list[RegistryError] = []

        async def work(at: int) -> None:
            for key in left:
                if stopped or replaced():
                    return
                self._writing[tasks[at]] = key, wanted.get(key)
                try:
                    await self._write(key, wanted.get(key))
                except _NOTHING_NOW as error:
                    stopped.append(error)
                except (RegistryError, RecordError) as error:
                    refused[key] = error
                finally:
                    del self._writing[tasks[at]]

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(work(at)) for at, _ in enumerate(todo[:_AT_ONCE])]
        if stopped:
            raise stopped[0]
        return refused

    async def _write(self, key: str, backend: Backend | None) -> None:
        self.written.pop(key, None)
        if backend is None:
            await self._lease.delete(self._tried[key])
            del self._tried[key]
        else:
            self._tried[key] = backend
            await self._put(key, backend)
            self.written[key] = backend

    async def _put(self, key: str, backend: Backend) -> None:
        try:
            await self._lease.put(backend, force=self._force(key))
        except OwnedByAnotherError as error:
            if error.owner is None or not await asyncio.to_thread(self._succeeds, error.owner):
                if error.owner is not None and self._handed_over.get(key) == error.owner:
                    raise HandedOverError.of(key, repr(error.owner), error.owner) from None
                raise
            await self._lease.put(backend, force=True)
