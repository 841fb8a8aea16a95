"""Runs a provider: a thread and loop of its own, its checks, retries, health. Knows no registry."""

import asyncio
import re
import time
from collections.abc import Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from structlog.typing import FilteringBoundLogger

from discovery.errors import DiscoveryError, RecordError, describe
from discovery.hosting.details import Details
from discovery.hosting.isolation import TIMING, Isolated, Phase, PluginStatus, Timing, printable_lines
from discovery.model import Backend
from discovery.plugin import AnyProvider, Candidate, Context, Inventory, PluginConfig, Sample
from discovery.providing.checker import CandidateStatus, Checker
from discovery.system.asyncio_tools import cancel_and_wait, is_being_cancelled
from discovery.system.backoff import delays
from discovery.system.either import iterated
from discovery.system.lookups import Lookup
from discovery.system.terminal import printable
from discovery.validity import validate

_MACHINE = re.compile(r"[A-Za-z0-9._-]{1,128}")
"""The name of a machine in an owner, of which `/` ends this part."""
_FIRST_PAUSE, _MOST_PAUSE = 0.02, 1.0
"""Seconds between two discoveries that were requested; they double while requests go on."""
_CALM = 2.0
"""Seconds without a discovery that was requested, after which the next pause is the shortest one again."""


@dataclass(frozen=True, slots=True)
class ProviderStatus(PluginStatus):
    """Measurements of a provider.

    `candidates` is how each one's checks stand, by key; `problems` is what is wrong with what was found, by what its
    user knows it as; `skipped` is what was left out on purpose; `published` is whether a first set has been handed on.
    `machine` is the machine that the provider names, empty for this one.
    """

    candidates: Mapping[str, CandidateStatus] = field(default_factory=lambda: MappingProxyType({}))
    problems: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    skipped: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    published: bool = False
    machine: str = ""


@dataclass(frozen=True, slots=True)
class ProviderInstance:
    """A provider as configured: its name, its plugin, how to make it, and how it is registered.

    `ttl` is how many seconds its records outlive it; `owner` whose they are, empty for the default; `force`
    takes each key over from another live owner, once, and `takeover` asks that owner.
    """

    name: str
    plugin: str
    provider: type[AnyProvider]
    config: PluginConfig
    ttl: float = 10.0
    owner: str = ""
    force: bool = False
    takeover: bool = False


class ProviderRunner(Isolated[ProviderInstance, AnyProvider, ProviderStatus]):
    """A provider, isolated. `publish` is given, on its thread, the complete set of what is to be registered.

    The first time once everything found first has been checked, then at every difference. While the provider fails or
    is restarted, what it found last stands and is still checked.
    """

    KIND = "provider"

    def __init__(
        self,
        instance: ProviderInstance,
        run_dir: Path,
        log: FilteringBoundLogger,
        publish: Callable[[tuple[Backend, ...]], None],
        lookup: Lookup,
        changed: Callable[[], None] = lambda: None,
        state_dir: Path | None = None,
        timing: Timing = TIMING,
    ) -> None:
        """Prepare; `start` begins. The instance's own directory is made, and locked, in `run_dir`.

        `lookup` is what the checks look up host names by. `state_dir` is the instance's own state directory, by default
        one in its run directory.
        """
        super().__init__(instance, ProviderStatus(instance.name, instance.plugin), run_dir, log, changed, timing)
        self._publish = publish
        self._state_dir = state_dir or self._run_dir / "state"
        self._checker = Checker(self._publish_backends, self._log, lookup)
        self._checking: asyncio.Task[None] | None = None
        self._inventory: Inventory | None = None
        self._details: Details[AnyProvider] = Details(self.KIND, self._log)
        self._discovery_requested = False

    @property
    def status(self) -> ProviderStatus:
        """The status now. From any thread."""
        return replace(super().status, candidates=self._checker.status)

    def request_discovery(self) -> None:
        """End the present `discover` and begin another, without waiting out a retry. Returns at once; any thread.

        Requests in quick succession begin discoveries after growing pauses, down to one discovery each second.
        """
        self._discovery_requested = True
        self._wake.set()

    async def samples(self, timeout: float) -> tuple[Sample, ...]:
        """Return the provider's own metrics. See `Details.samples`."""
        return await self._details.samples(timeout)

    async def inspect(self, timeout: float) -> Mapping[str, Any]:
        """Return the provider's details of its state. See `Details.inspect`."""
        return await self._details.inspect(self._loop, timeout)

    def _make(self, instance: ProviderInstance) -> AnyProvider:
        context = Context(
            instance.name,
            self._run_dir,
            self._log,
            state_dir=self._state_dir,
            request_discovery=self.request_discovery,
        )
        return instance.provider(instance.config, context)

    def _remains(self, instance: ProviderInstance) -> bool:
        # What else differs matters to the registry alone.
        now = self._instance
        same = (now.provider, now.config) == (instance.provider, instance.config)
        return same and not self._is_stopping()

    def _is_stopping(self) -> bool:
        # The end of the checks interrupts everything but a teardown.
        return super()._is_stopping() or (self._checking is not None and self._checking.done())

    def _is_final(self, error: BaseException) -> bool:
        # What stands in the registry must be checked, whatever becomes of a new configuration.
        return super()._is_final(error) and not self._status.published

    def _report_dead(self, reason: str) -> None:
        if self._status.published and not self._stopping.is_set():
            self._publish_backends(())  # nobody would check it any more
        super()._report_dead(reason)

    async def _run_instances(self) -> None:
        self._checking = checking = asyncio.create_task(self._checker.run())
        checking.add_done_callback(lambda _: self._interrupt())
        try:
            await super()._run_instances()
        finally:
            with self._uninterruptible():
                await cancel_and_wait(checking)
            if not checking.cancelled():
                checking.result()  # it never ends by itself: let its exception be seen

    async def _follow(self, plugin: AnyProvider, instance: ProviderInstance) -> ProviderInstance | None:
        self._details.begin(plugin)
        self._discovery_requested = False
        discovering = asyncio.create_task(self._discover(plugin))
        next_health, begun, next_discovery = 0.0, 0.0, 0.0
        pauses = delays(_FIRST_PAUSE, _MOST_PAUSE)
        try:
            while not self._is_stopping():
                if not self._remains(instance):
                    await self._end(discovering)
                    latest = self._instance
                    if self._is_stopping() or latest.provider is not instance.provider:
                        return latest
                    if not await self._details.adopts(latest.config):
                        return latest
                    instance, self._discovery_requested, next_discovery = latest, True, 0.0
                if self._discovery_requested and (now := time.monotonic()) >= next_discovery:
                    self._discovery_requested = False
                    if now - begun > _CALM:
                        pauses = delays(_FIRST_PAUSE, _MOST_PAUSE)
                    # A discovery that asks for another would otherwise go on without a pause, and without an end.
                    begun, next_discovery = now, now + next(pauses)
                    await self._end(discovering)
                    discovering = asyncio.create_task(self._discover(plugin))
                if time.monotonic() >= next_health:
                    async with self._details.turn:
                        await self._check_health(plugin)
                    next_health = time.monotonic() + self._timing.health_every
                until = min(next_health, next_discovery) if self._discovery_requested else next_health
                await self._wake.wait(until - time.monotonic())
        finally:
            await self._end(discovering)
        return self._instance

    async def _end(self, discovering: asyncio.Task[None]) -> None:
        with self._uninterruptible():
            await cancel_and_wait(discovering)

    async def _release(self, plugin: AnyProvider) -> None:
        await self._details.end()
        await super()._release(plugin)

    async def _discover(self, provider: AnyProvider) -> None:
        """Take what the provider yields, again and again, until cancelled."""
        waits = delays()
        while True:
            try:
                async with aclosing(iterated(provider.discover(), self._timing.step)) as inventories:
                    async for inventory in inventories:
                        if is_being_cancelled():  # the provider has swallowed the cancellation
                            return
                        self._receive_inventory(inventory)
                        waits = delays()
                raise DiscoveryError("the provider has ended its discovery by itself")
            except BaseException as error:  # a plugin may raise anything, SystemExit too
                if self._is_own_cancellation(error):
                    raise
                self._report_failure("discovery failed", error)
            await asyncio.sleep(next(waits))

    def _receive_inventory(self, inventory: Inventory) -> None:
        if inventory != self._inventory:
            candidates, problems = valid_candidates(inventory)
            machine = inventory.machine
            if machine and not _MACHINE.fullmatch(machine):
                machine, problems = "", {**problems, "machine": f"{machine[:80]!a} is not the name of a machine"}
            if self._inventory is None:
                self._report(machine=machine)  # before the first set is handed on, and never again
            self._checker.set(candidates)
            self._report_problems(self._status.problems, problems)
            self._report(problems=problems)
            self._report_skipped(printable_lines(inventory.skipped))
            self._inventory = inventory
        if self._status.error is not None:
            self._log.info("discovery works again", failures=self._failures.end())
            self._report(Phase.WAITING, error=None)

    def _report_skipped(self, skipped: Mapping[str, str]) -> None:
        """Log what is newly skipped, or by another rule, and keep the present rules."""
        before = self._status.skipped
        for what, rule in skipped.items():
            if before.get(what) != rule:
                self._log.debug("skipped", what=what, rule=rule)
        for what in before.keys() - skipped.keys():
            self._log.debug("no longer skipped", what=what)
        self._report(skipped=skipped)

    def _publish_backends(self, backends: tuple[Backend, ...]) -> None:
        self._report(published=True)
        self._publish(backends)


def valid_candidates(inventory: Inventory) -> tuple[tuple[Candidate, ...], Mapping[str, str]]:
    """The candidates that can be registered, their hosts in canonical form, and all problems by name.

    Of different candidates with the same key none is admitted. Equal candidates count as one. Raises TypeError for what
    is no inventory of candidates.
    """
    found: Any = inventory
    if not isinstance(found, Inventory):
        raise TypeError(f"it yields a {type(found).__name__}, and no Inventory")
    for each in found.candidates:
        if not isinstance(each, Candidate):
            raise TypeError(f"its Inventory has a {type(each).__name__} among the candidates")
    problems = dict(printable_lines(inventory.problems))
    claims: dict[str, dict[Candidate, None]] = {}
    for candidate in inventory.candidates:
        key = candidate.backend.key
        try:
            valid = replace(candidate, backend=validate(candidate.backend))
            claims.setdefault(key, {})[valid] = None
        except (RecordError, TypeError) as error:  # the latter for a probe that cannot be hashed
            problems[printable(key)] = describe(error)
    for key, claimants in claims.items():
        if len(claimants) > 1:
            addresses = ", ".join(sorted(claimant.backend.address for claimant in claimants))
            problems[key] = f"{len(claimants)} different candidates have this key: {addresses}"
    admitted = tuple(claimant for claimants in claims.values() if len(claimants) == 1 for claimant in claimants)
    return admitted, MappingProxyType(problems)
