"""Keeps the registry equal to a set of backends. After a lost lease all of them are registered again.

Level-triggered: the registrar is given the complete set and computes the differences. Knows no provider.
"""

import asyncio
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from structlog.typing import FilteringBoundLogger

from discovery.errors import (
    DiscoveryError,
    LeaseLostError,
    OwnedByAnotherError,
    RecordError,
    RegistryError,
    RegistryUnavailableError,
    describe,
)
from discovery.model import Backend
from discovery.registry import Lease, Registry, TellsWhenFree
from discovery.system.asyncio_tools import cancel_and_wait
from discovery.system.backoff import delays

_FIRST_DELAY = 0.2
"""Seconds from the first failure of the registry to the next attempt; the delay doubles."""
_MOST_DELAY = 10.0
"""Seconds between two attempts at most: the default TTL."""
_MOST_AWAY = 0.5  # a registry that cannot be reached: what is wanted has to stand soon after it is back

_LEAST_REFUSED = 0.05
"""Seconds from a refusal to the next try of that key, at least, even if its lease says that the key is free."""

_AT_ONCE = 16
"""Keys that are written or deleted at the same time: enough to hide the round trip, and no flood for etcd."""
_NOTHING_NOW = (RegistryUnavailableError, LeaseLostError)


@dataclass(frozen=True, slots=True)
class RegistrarStatus:
    """Which keys stand in the registry as wanted, and why the others do not, by key.

    A key that fails without being wanted is one that cannot be withdrawn.
    """

    registered: frozenset[str] = frozenset()
    failing: Mapping[str, DiscoveryError] = field(default_factory=lambda: MappingProxyType({}))


class Registrar:
    """Registers a set of backends for an owner, under a lease.

    `set` gives the backends. `run` registers them, and keeps them registered until it is cancelled. Before the first
    `set`, `run` writes and removes nothing. When all of the first set is registered, `run` removes the records of an
    earlier run of the owner that are not in the set. While the registry is unavailable, `run` tries again. A key that
    another live owner holds is watched, and registered when it is free. A refused key is tried again every `ttl`
    seconds, and does not affect other keys.
    """

    def __init__(
        self,
        registry: Registry,
        owner: str,
        ttl: float,
        log: FilteringBoundLogger,
        *,
        force: bool = False,
        among: Collection[str] | None = None,
        succeeds: Callable[[str], bool] = lambda owner: False,
        changed: Callable[[RegistrarStatus], None] = lambda status: None,
    ) -> None:
        """Prepare. `changed` is called with each new status; `force` takes each key from another owner, once.

        `among` are the only keys that the owner may ever want, if they are known: the registry is then not searched
        for what an earlier run left. `succeeds` says, in a thread, whether a record of another owner, given by name,
        may be taken over at once all the same.
        """
        self._registry = registry
        self._owner = owner
        self._ttl = ttl
        self._log = log
        self._force = force
        self._succeeds = succeeds
        self._stood: set[str] = set()
        self._among = among
        self._unswept = True
        self._changed = changed
        self._wanted: dict[str, Backend] = {}
        self._told = False
        self._keeps_records = False
        self._records: _Records | None = None
        self._answered: frozenset[str] = frozenset()  # under the present lease, each is written or refused
        self._wake = asyncio.Event()
        self._outage = False
        self._sweep_problem = ""
        self.status = RegistrarStatus()

    def set(self, backends: Iterable[Backend]) -> None:
        """Replace the set of backends to register. Called on the loop of `run`, before or while it runs."""
        self._wanted = {backend.key: backend for backend in backends}
        self._told = True
        self._wake.set()
        if self._records is not None:
            self._records.cancel_writes_except(self._wanted)

    def keep_records(self) -> None:
        """Withdraw nothing at the end: a successor of the same owner takes over what stands."""
        self._keeps_records = True

    async def run(self) -> None:
        """Keep the registry equal to the set; when cancelled, withdraw everything, unless told to `keep_records`."""
        loop = asyncio.get_running_loop()
        leases: list[Lease] = []  # the newest last; lost ones stay until it has what they had
        lost_at = -math.inf
        try:
            retries = delays(_FIRST_DELAY, _MOST_DELAY)
            while True:
                try:
                    lease = await self._registry.open_lease(self._owner, self._ttl)
                except RegistryError as error:
                    self._report_outage({}, error)
                    await asyncio.sleep(_pause(retries, error))
                    continue
                leases.append(lease)
                reason = await self._keep(leases)
                self._log.warning("registration lost, registering again", reason=reason)
                self._report({}, dict.fromkeys(self._wanted, LeaseLostError(reason)))
                # Once in a while: at once. Again and again (two of one owner, say): less and less often.
                if loop.time() - lost_at > self._ttl:
                    retries = delays(_FIRST_DELAY, _MOST_DELAY)
                else:
                    await asyncio.sleep(next(retries))
                lost_at = loop.time()
        finally:
            if not self._keeps_records:
                await self._withdraw(leases)

    async def _withdraw(self, leases: Iterable[Lease]) -> None:
        try:
            await _close(leases)
        except RegistryError as error:
            self._log.warning("not withdrawn: the records stand until their TTL is over", reason=describe(error))

    async def _keep(self, leases: list[Lease]) -> str:
        """Keep the registry equal under the newest lease until that is lost; return why."""
        stands = asyncio.Event()
        lost = asyncio.ensure_future(leases[-1].lost())
        keeping = asyncio.ensure_future(self._keep_equal(leases, stands))
        sweeping = asyncio.ensure_future(self._sweep(leases[-1], stands))
        try:
            # Whatever is being asked of a registry that does not answer: a lease that is lost is lost now.
            await asyncio.wait({lost, keeping}, return_when=asyncio.FIRST_COMPLETED)
            return lost.result() if lost.done() else keeping.result()
        finally:
            await cancel_and_wait(lost, keeping, sweeping)

    async def _keep_equal(self, leases: list[Lease], stands: asyncio.Event) -> str:
        """Reconcile whenever there is a reason to. Returns why the lease is lost, if that is what writing meets."""
        self._records = records = _Records(leases[-1], self._may_force, self._succeeds)
        self._answered = frozenset()
        retries = delays(_FIRST_DELAY, _MOST_DELAY)
        while True:
            self._wake.clear()
            wait: float | None = None
            refused: list[str] = []
            try:
                if self._told:
                    failing = await records.write_differences(self._wanted, self._wake.is_set)
                    if self._wake.is_set():
                        continue
                    self._answered = frozenset(self._wanted)
                    self._report(records.written, failing)
                    # Only now, so that no key is ever absent between two leases.
                    await _close(leases[:-1])
                    del leases[:-1]
                    stands.set()
                    wait = self._ttl if failing else None
                    refused = [key for key, error in failing.items() if isinstance(error, OwnedByAnotherError)]
                    retries = delays(_FIRST_DELAY, _MOST_DELAY)
            except LeaseLostError as error:
                return str(error)
            except RegistryError as error:
                wait = _pause(retries, error)
                self._report_outage(records.written, error)
            await self._pause(wait, leases[-1], refused)

    async def _pause(self, wait: float | None, lease: Lease, refused: Collection[str]) -> None:
        """Wait for another set of backends or until a key in `refused` is free, for at most `wait` seconds."""
        reasons = {asyncio.ensure_future(self._wake.wait())}
        if refused and isinstance(lease, TellsWhenFree):
            reasons.add(asyncio.ensure_future(self._until_free(lease, refused)))
        try:
            await asyncio.wait(reasons, timeout=wait, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await cancel_and_wait(*reasons)

    async def _until_free(self, lease: TellsWhenFree, refused: Collection[str]) -> Literal[True]:
        clock = asyncio.get_running_loop().time
        again_at = clock() + _LEAST_REFUSED
        try:
            await lease.until_free(refused)
            await asyncio.sleep(again_at - clock())  # a lease may say so without a reason
        except Exception as error:  # noqa: BLE001 - the registry may be a plugin's, which may raise anything
            self._log.debug("refused keys cannot be watched, they are retried", reason=describe(error), wait=self._ttl)
            await asyncio.sleep(self._ttl)
        return True

    def _may_force(self, key: str) -> bool:
        # Two registrars that both force must not take a key from each other for ever.
        return self._force and key not in self._stood

    async def _sweep(self, lease: Lease, stands: asyncio.Event) -> None:
        """Remove, once, what an earlier run left: once everything stands, and beside all else, as it may take long."""
        await stands.wait()
        retries = delays(_FIRST_DELAY, _MOST_DELAY)
        while self._unswept:
            wanted = frozenset(self._wanted)
            # Any other key keeps what the earlier run left there, and may be wanted no more before it is written.
            is_all_answered = wanted <= self._answered
            try:
                swept = await lease.sweep(wanted, self._among)
            except LeaseLostError:
                return
            except RegistryUnavailableError as error:
                await asyncio.sleep(_pause(retries, error))
            except Exception as error:  # noqa: BLE001 - the registry may be a plugin's, which may raise anything
                if (reason := describe(error)) != self._sweep_problem:
                    self._sweep_problem = reason
                    self._log.warning("cannot remove what an earlier run left, trying again", reason=reason)
                await asyncio.sleep(self._ttl)
            else:
                for key in sorted(swept):
                    self._log.info("withdrawn, as an earlier run had left it", key=key)
                if is_all_answered:
                    self._unswept = False
                else:
                    await asyncio.sleep(next(retries))

    def _report_outage(self, written: Mapping[str, Backend], error: RegistryError) -> None:
        """Nothing can be written now. Told once in an outage, whatever its reason turns into."""
        failing = {key: error for key, backend in self._wanted.items() if written.get(key) != backend}
        if failing and not self._outage:
            self._outage = True
            self._log.warning("cannot register now, trying again", reason=str(error), keys=len(failing))
        self._update(written, failing)

    def _report(self, written: Mapping[str, Backend], failing: Mapping[str, DiscoveryError]) -> None:
        self._outage = False
        before = self.status
        for key, error in sorted(failing.items()):
            if not isinstance(error, LeaseLostError) and str(error) != str(before.failing.get(key, "")):
                what = "registered" if key in self._wanted else "withdrawn"
                self._log.warning(f"not {what}, trying again", key=key, reason=str(error))
        for key in sorted(before.registered - self._wanted.keys() - failing.keys()):
            self._log.info("withdrawn", key=key)
        self._update(written, failing)

    def _update(self, written: Mapping[str, Backend], failing: Mapping[str, DiscoveryError]) -> None:
        standing = frozenset(written.keys() & self._wanted.keys() - failing.keys())
        self._stood |= standing
        before, self.status = self.status, RegistrarStatus(standing, MappingProxyType(dict(failing)))
        for key in sorted(self.status.registered - before.registered):
            self._log.info("registered", key=key)
        if self.status != before:
            self._changed(self.status)


class _Records:
    """The records under a lease, and the work that makes these equal to the wanted records."""

    def __init__(self, lease: Lease, force: Callable[[str], bool], succeeds: Callable[[str], bool]) -> None:
        """Begin with none."""
        self.written: dict[str, Backend] = {}
        """The keys that are certainly registered."""
        self._tried: dict[str, Backend] = {}  # may stand: what failed may have been done, and only its answer lost
        self._writing: dict[asyncio.Task[None], tuple[str, Backend | None]] = {}
        self._lease = lease
        self._force = force
        self._succeeds = succeeds

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
                raise
            await self._lease.put(backend, force=True)


def _pause(retries: Iterator[float], error: RegistryError) -> float:
    return min(next(retries), _MOST_AWAY) if isinstance(error, RegistryUnavailableError) else next(retries)


async def _close(leases: Iterable[Lease]) -> None:
    await asyncio.gather(*(lease.close() for lease in leases))
