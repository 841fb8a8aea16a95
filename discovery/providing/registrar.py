"""Keeps the registry equal to a set of backends. After a lost lease all of them are registered again.

Level-triggered: the registrar is given the complete set and computes the differences. Knows no provider.
"""

import asyncio
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Literal

from structlog.typing import FilteringBoundLogger

from discovery.errors import (
    DiscoveryError,
    HandedOverError,
    LeaseLostError,
    OwnedByAnotherError,
    RegistryError,
    RegistryUnavailableError,
    describe,
)
from discovery.model import Backend
from discovery.providing.records import Records
from discovery.providing.takeovers import TURN_SECONDS, Takeovers, to_be_asked
from discovery.registry import HandsOver, Lease, Registry, TellsWhenFree
from discovery.system.asyncio_tools import cancel_and_wait
from discovery.system.backoff import delays

_FIRST_DELAY = 0.2
"""Seconds from the first failure of the registry to the next attempt; the delay doubles."""
_MOST_DELAY = 10.0
"""Seconds between two attempts at most: the default TTL."""
_RETRIES = partial(delays, _FIRST_DELAY, _MOST_DELAY)
_MOST_AWAY = 0.5  # a registry that cannot be reached: what is wanted has to stand soon after it is back

_LEAST_REFUSED = 0.05
"""Seconds from a refusal to the next try of that key, at least, even if its lease says that the key is free."""


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
    seconds, and does not affect other keys. A key that another owner asks for is handed over; `run` registers the key
    again only when it is free.
    """

    def __init__(
        self,
        registry: Registry,
        owner: str,
        ttl: float,
        log: FilteringBoundLogger,
        *,
        force: bool = False,
        takeover: bool = False,
        among: Collection[str] | None = None,
        succeeds: Callable[[str], bool] = lambda owner: False,
        changed: Callable[[RegistrarStatus], None] = lambda status: None,
        retries: Callable[[], Iterator[float]] = _RETRIES,
        turn_seconds: float = TURN_SECONDS,
    ) -> None:
        """Prepare. `changed` is called with each new status; `force` takes each key from another owner, once.

        `takeover` asks the living owner of each key to hand the key over, once.

        `among` are the only keys that the owner may ever want, if they are known: the registry is then not searched
        for what an earlier run left. `succeeds` says, in a thread, whether a record of another owner, given by name,
        may be taken over at once all the same. `retries` returns the seconds before each next attempt in a row of
        failures. With `takeover` an owner has `turn_seconds` to answer while other keys wait for their turn.
        """
        self._registry = registry
        self._owner = owner
        self._ttl = ttl
        self._log = log
        self._force = force
        self._takeover = takeover
        self._succeeds = succeeds
        self._handed_over: dict[str, str] = {}  # the new owner by key
        self._stood: set[str] = set()
        self._among = among
        self._unswept = True
        self._changed = changed
        self._retries = retries
        self._turn_seconds = turn_seconds
        self._wanted: dict[str, Backend] = {}
        self._told = False
        self._keeps_records = False
        self._records: Records | None = None
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
            retries = self._retries()
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
                    retries = self._retries()
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
            self._log.warning(
                "the records are not withdrawn, and stand until their TTL is over", reason=describe(error)
            )

    async def _keep(self, leases: list[Lease]) -> str:
        """Keep the registry equal under the newest lease until that is lost; return why."""
        stands = asyncio.Event()
        lost = asyncio.ensure_future(leases[-1].lost())
        keeping = asyncio.ensure_future(self._keep_equal(leases, stands))
        beside = [asyncio.ensure_future(self._sweep(leases[-1], stands))]
        if isinstance(leases[-1], HandsOver):
            beside.append(asyncio.ensure_future(self._hand_over(leases[-1])))
        try:
            # Whatever is being asked of a registry that does not answer: a lease that is lost is lost now.
            await asyncio.wait({lost, keeping}, return_when=asyncio.FIRST_COMPLETED)
            return lost.result() if lost.done() else keeping.result()
        finally:
            await cancel_and_wait(lost, keeping, *beside)

    async def _keep_equal(self, leases: list[Lease], stands: asyncio.Event) -> str:
        """Reconcile whenever there is a reason to. Returns why the lease is lost, if that is what writing meets."""
        lease = leases[-1]
        self._records = records = Records(lease, self._may_force, self._succeeds, self._handed_over)
        takeovers: Takeovers | None = None

        def refused_to_ask(key: str) -> None:
            if (error := self.status.failing.get(key)) is not None:
                self._report(records.written, {**self.status.failing, key: to_be_asked(key, error, takeovers)})

        if isinstance(lease, HandsOver):
            takeovers = Takeovers(lease, self._wake.set, refused_to_ask, self._log, self._turn_seconds)
        self._answered = frozenset()
        retries = self._retries()
        try:
            while True:
                self._wake.clear()
                wait: float | None = None
                refused: dict[str, Backend] = {}
                try:
                    if self._told:
                        if takeovers is not None:  # first: a key that comes after its removal would stay
                            await takeovers.withdraw_except(self._wanted)
                        failing = await records.write_differences(self._wanted, self._wake.is_set)
                        if self._wake.is_set():
                            continue
                        self._answered = frozenset(self._wanted)
                        refused = {
                            key: self._wanted[key]
                            for key in failing.keys() & self._wanted.keys()
                            if isinstance(failing[key], OwnedByAnotherError)
                        }
                        asked = self._to_be_asked(refused)
                        failing |= {key: to_be_asked(key, failing[key], takeovers) for key in asked}
                        if takeovers is not None:
                            await takeovers.ask(asked)
                        self._report(records.written, failing)
                        # Only now, so that no key is ever absent between two leases.
                        await _close(leases[:-1])
                        del leases[:-1]
                        stands.set()
                        wait = self._ttl if failing else None
                        retries = self._retries()
                except LeaseLostError as error:
                    return str(error)
                except RegistryError as error:
                    wait = _pause(retries, error)
                    self._report_outage(records.written, error)
                await self._pause(wait, lease, refused)
        finally:
            if takeovers is not None:
                await takeovers.close()

    def _to_be_asked(self, refused: Mapping[str, Backend]) -> dict[str, Backend]:
        """Return the keys in `refused` whose owners are to be asked: no key twice, so that no two take it in turns."""
        return {key: each for key, each in refused.items() if self._takeover and key not in self._stood}

    async def _hand_over(self, lease: HandsOver) -> None:
        """Hand keys over to the owners that ask for them, beside all else."""
        while True:
            try:
                key, owner = await lease.handed_over()
            except LeaseLostError:
                return
            except Exception as error:  # noqa: BLE001 - the registry may be a plugin's, which may raise anything
                self._log.debug("requests for keys cannot be followed, trying again", reason=describe(error))
                await asyncio.sleep(self._ttl)
            else:
                self._handed_over[key] = owner
                self._stood.add(key)  # perhaps not yet reported
                if self._records is not None:
                    self._records.forget(key)
                self._log.info("handed over", key=key, to=owner)
                self._wake.set()

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
            wait = min(self._ttl, _MOST_DELAY)
            self._log.debug("refused keys cannot be watched, they are retried", reason=describe(error), wait=wait)
            await asyncio.sleep(wait)
        return True

    def _may_force(self, key: str) -> bool:
        # Two registrars that both force must not take a key from each other forever.
        return self._force and key not in self._stood

    async def _sweep(self, lease: Lease, stands: asyncio.Event) -> None:
        """Remove, once, what an earlier run left: once everything stands, and beside all else, as it may take long."""
        await stands.wait()
        retries = self._retries()
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
            told = isinstance(error, LeaseLostError | HandedOverError) or str(error) == str(before.failing.get(key))
            if not told:
                what = "registered" if key in self._wanted else "withdrawn"
                self._log.warning(f"not {what}, trying again", key=key, reason=str(error))
        for key in sorted(before.registered - self._wanted.keys() - failing.keys()):
            self._log.info("withdrawn", key=key)
        self._update(written, failing)

    def _update(self, written: Mapping[str, Backend], failing: Mapping[str, DiscoveryError]) -> None:
        standing = frozenset(written.keys() & self._wanted.keys() - failing.keys())
        self._stood |= standing
        again = standing & self._handed_over.keys()  # of which nobody may have seen that others had them
        for key in again:
            del self._handed_over[key]
        before, self.status = self.status, RegistrarStatus(standing, MappingProxyType(dict(failing)))
        for key in sorted((standing - before.registered) | again):
            self._log.info("registered", key=key)
        if self.status != before:
            self._changed(self.status)


def _pause(retries: Iterator[float], error: RegistryError) -> float:
    return min(next(retries), _MOST_AWAY) if isinstance(error, RegistryUnavailableError) else next(retries)


async def _close(leases: Iterable[Lease]) -> None:
    await asyncio.gather(*(lease.close() for lease in leases))
