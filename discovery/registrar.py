"""Keeps the registry equal to a set of backends: lease, puts, deletes, and everything anew after a lost lease.

Level-triggered: it is told the complete set, and works out the differences itself. Knows no provider.
"""

import asyncio
import hmac
import math
import socket
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from structlog.typing import FilteringBoundLogger

from discovery.backoff import delays
from discovery.codec import key_of
from discovery.errors import DiscoveryError, LeaseLostError, OwnedByAnotherError, RecordError, RegistryError
from discovery.model import Backend
from discovery.registry import Lease, Registry

_FIRST_DELAY = 0.2
_MOST_DELAY = 10.0


@dataclass(frozen=True, slots=True)
class Status:
    """Which keys stand in the registry as wanted, and why the others do not, by key."""

    registered: frozenset[str] = frozenset()
    failing: Mapping[str, DiscoveryError] = field(default_factory=lambda: MappingProxyType({}))


class Registrar:
    """Registers a set of backends for one owner, under one lease.

    `set` says which; `run` makes it so and keeps it so until it is cancelled. A registry that is away is retried; a
    key that another live owner holds is retried every `ttl` seconds, and does not hinder its neighbours.
    """

    def __init__(
        self,
        registry: Registry,
        owner: str,
        ttl: float,
        log: FilteringBoundLogger,
        *,
        force: bool = False,
        changed: Callable[[Status], None] = lambda status: None,
    ) -> None:
        """Begin with an empty set. `changed` is called with each new status; `force` takes keys from other owners."""
        self._registry = registry
        self._owner = owner
        self._ttl = ttl
        self._log = log
        self._force = force
        self._changed = changed
        self._wanted: dict[str, Backend] = {}
        self._wake = asyncio.Event()
        self.status = Status()

    def set(self, backends: Iterable[Backend]) -> None:
        """Say what is to be registered: all of it, every time. On the loop of `run`, before it or meanwhile."""
        self._wanted = {key_of(backend): backend for backend in backends}
        self._wake.set()

    async def run(self) -> None:
        """Keep the registry equal to the set; when cancelled, withdraw everything."""
        loop = asyncio.get_running_loop()
        leases: list[Lease] = []  # the newest last; lost ones stay until it has what they had
        lost_at = -math.inf
        try:
            retries = delays(_FIRST_DELAY, _MOST_DELAY)
            while True:
                try:
                    lease = await self._registry.open_lease(self._owner, self._ttl)
                except RegistryError as error:
                    self._report((), dict.fromkeys(self._wanted, error))
                    await asyncio.sleep(next(retries))
                    continue
                leases.append(lease)
                reason = await self._keep(leases)
                self._log.warning("registration lost, registering again", reason=reason)
                self._report((), dict.fromkeys(self._wanted, LeaseLostError(reason)))
                # Once in a while: at once. Again and again (two of one owner, say): less and less often.
                if loop.time() - lost_at > self._ttl:
                    retries = delays(_FIRST_DELAY, _MOST_DELAY)
                else:
                    await asyncio.sleep(next(retries))
                lost_at = loop.time()
        finally:
            await _close(leases)

    async def _keep(self, leases: list[Lease]) -> str:
        """Reconcile under the newest lease, whenever there is a reason to, until it is lost; return why."""
        lease = leases[-1]
        written: dict[str, Backend] = {}
        tried: dict[str, Backend] = {}
        retries = delays(_FIRST_DELAY, _MOST_DELAY)
        lost = asyncio.ensure_future(lease.lost())
        try:
            while not lost.done():
                self._wake.clear()
                wait: float | None = None
                try:
                    failing = await self._reconcile(lease, written, tried)
                except LeaseLostError as error:
                    return str(error)
                except RegistryError as error:
                    wait = next(retries)
                    failing = {key: error for key, wanted in self._wanted.items() if written.get(key) != wanted}
                else:
                    retries = delays(_FIRST_DELAY, _MOST_DELAY)
                    wait = self._ttl if failing else None
                    # Only now, so that no key is ever absent between two leases.
                    await _close(leases[:-1])
                    del leases[:-1]
                self._report(written, failing)
                await self._wait(lost, wait)
            return lost.result()
        finally:
            lost.cancel()

    async def _reconcile(
        self, lease: Lease, written: dict[str, Backend], tried: dict[str, Backend]
    ) -> dict[str, DiscoveryError]:
        """Write what differs. Returns what this registry refuses; raises if nothing can be written now.

        `written` stands for sure. `tried` may stand: what failed may have been carried out, and only its answer lost.
        """
        refused: dict[str, DiscoveryError] = {}
        for key in tried.keys() - self._wanted.keys():
            written.pop(key, None)
            await lease.delete(tried[key])
            del tried[key]
        for key, backend in self._wanted.items():
            if written.get(key) != backend:
                written.pop(key, None)
                tried[key] = backend
                try:
                    await lease.put(backend, force=self._force)
                    written[key] = backend
                except (OwnedByAnotherError, RecordError) as error:
                    refused[key] = error
        return refused

    async def _wait(self, lost: asyncio.Future[str], seconds: float | None) -> None:
        woken = asyncio.ensure_future(self._wake.wait())
        either: set[asyncio.Future[Any]] = {lost, woken}
        try:
            await asyncio.wait(either, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            woken.cancel()

    def _report(self, written: Iterable[str], failing: Mapping[str, DiscoveryError]) -> None:
        standing = frozenset(written) & self._wanted.keys() - failing.keys()
        before, self.status = self.status, Status(standing, MappingProxyType(dict(failing)))
        for key in sorted(self.status.registered - before.registered):
            self._log.info("registered", key=key)
        for key, error in sorted(failing.items()):
            if not isinstance(error, LeaseLostError) and str(error) != str(before.failing.get(key, "")):
                self._log.warning("not registered, trying again", key=key, reason=str(error))
        if self.status != before:
            self._changed(self.status)


def machine_id() -> str:
    """What tells this machine from others, in the names of owners.

    Derived from /etc/machine-id as machine-id(5) asks for, since the id itself is not for publication; where there is
    none, the host name.
    """
    with suppress(OSError):
        if id_ := Path("/etc/machine-id").read_bytes().strip():
            return hmac.digest(id_, b"discovery-framework", "sha256").hex()[:16]
    return socket.gethostname()


async def _close(leases: Iterable[Lease]) -> None:
    await asyncio.gather(*(lease.close() for lease in leases))
