"""A provider of the daemon: its runner, and a registrar of its own that keeps registered what the runner finds."""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from structlog.typing import FilteringBoundLogger

from discovery.errors import DiscoveryError, OwnedByAnotherError, RecordError, describe
from discovery.hosting.isolation import Phase, lock_path
from discovery.model import Backend
from discovery.plugin import Sample
from discovery.providing.registrar import Registrar
from discovery.providing.runner import ProviderInstance, ProviderRunner, ProviderStatus
from discovery.registry import Registry
from discovery.system.asyncio_tools import is_being_cancelled, wait_for_tasks
from discovery.system.backoff import delays
from discovery.system.lookups import Lookup
from discovery.system.owners import DefaultOwner

HANDOVER = 5.0
"""Seconds that a new registrar has to take everything over before the one before withdraws it."""


@dataclass(frozen=True, slots=True)
class RunningProviderStatus:
    """A provider that runs, and which of its backends are registered.

    `wanted` is what is to be registered, None as long as that is not known; `failing` is why a key is not, by key, and
    `fault` why none can be. `ready` is whether the registry has had the first set, once and for all.
    """

    runner: ProviderStatus
    owner: str
    ttl: float
    wanted: frozenset[str] | None
    registered: frozenset[str]
    failing: Mapping[str, DiscoveryError]
    fault: str | None
    ready: bool

    @property
    def problem(self) -> str | None:
        """The reason, in a line, why the provider is not well, or None.

        A registry that is away is no fault of the provider's.
        """
        return self.runner.problem or self.fault

    def why_not(self, key: str) -> str | None:
        """Return the reason why a candidate is not registered as wanted, in a line; None without a reason."""
        candidate = self.runner.candidates[key]
        if key in self.registered:
            return None
        if candidate.verdict is None:
            return "not checked yet"
        if self.wanted is None:
            return "others are not checked yet"
        if key not in self.wanted:
            return candidate.detail or "its checks fail"
        return str(self.failing.get(key) or self.fault or "not written yet")


class RunningProvider:
    """Runs a provider and keeps registered what the provider finds. For the core's loop.

    `changed` is called, from any thread, once its setup has been tried and when it can never run again. Before the
    provider has told a first set nothing is registered, nor is anything withdrawn that an earlier run left.
    """

    def __init__(
        self,
        instance: ProviderInstance,
        registry: Registry,
        run_dir: Path,
        log: FilteringBoundLogger,
        lookup: Lookup,
        changed: Callable[[], None],
        state_dir: Path | None = None,
    ) -> None:
        """Prepare; `start` begins. `lookup` is what the checks look up host names by.

        `state_dir` is the instance's own state directory, by default one in its run directory.
        """
        self._instance = instance
        self._registry = registry
        self._run_dir = run_dir
        self._state_dir = state_dir
        self._log = log
        self._lookup = lookup
        self._changed = changed
        self._loop = asyncio.get_running_loop()
        self._machine = ""
        self._wanted: tuple[Backend, ...] | None = None
        self._registrar: Registrar | None = None
        self._registrar_tasks: list[asyncio.Task[None]] = []  # the newest last; the others are being replaced
        self._reported = asyncio.Event()
        self._fault: str | None = None
        self._ready = False
        self._stopping = False
        self._runner = self._new_runner()

    @property
    def name(self) -> str:
        """The instance's name."""
        return self._instance.name

    @property
    def status(self) -> RunningProviderStatus:
        """The present state."""
        registrar = self._registrar
        return RunningProviderStatus(
            runner=self._runner.status,
            owner=self._instance.owner or str(self._default_owner),
            ttl=self._instance.ttl,
            wanted=None if self._wanted is None else frozenset(each.key for each in self._wanted),
            registered=registrar.status.registered if registrar is not None else frozenset(),
            failing=registrar.status.failing if registrar is not None else {},
            fault=self._fault,
            ready=self._ready,
        )

    @property
    def settled(self) -> bool:
        """True if the registry has had the first set, or the provider has failed, or has had its time to begin.

        Until then only the leases of a predecessor keep the records.
        """
        return self._ready or self.status.problem is not None or self._runner.has_had_time_to_begin

    async def samples(self, timeout: float) -> tuple[Sample, ...]:
        """Return the provider's own metrics; none after `timeout` seconds."""
        return await self._runner.samples(timeout)

    async def inspect(self, timeout: float) -> Mapping[str, Any]:
        """Return the provider's details of its state. See `Details.inspect`."""
        return await self._runner.inspect(timeout)

    def start(self) -> None:
        """Begin to look for backends."""
        self._runner.start()

    async def reconfigure(self, instance: ProviderInstance, registry: Registry) -> bool:
        """Take another configuration and registry. Returns False if both are equal to the present ones.

        What was found last stays registered until the provider's next inventory, except during a change of the owner.
        """
        before, self._instance = self._instance, instance
        dead = self._runner.status.phase in (Phase.DEAD, Phase.STOPPED)
        if dead:
            self._runner = self._new_runner()
            self._runner.start()
        elif replace(instance, **_registration(before)) != before:
            self._runner.reconfigure(instance)
        if registry is not self._registry or _registration(instance) != _registration(before):
            self._registry = registry
            await self._replace_registrar(another_owner=instance.owner != before.owner)
        elif not dead:
            return instance != before
        return True

    def stop(self) -> None:
        """Stop looking and withdraw everything, at the same time. Returns at once: see `join`."""
        self._stopping = True
        self._runner.stop()
        _cancel(self._registrar_tasks)

    def stop_and_keep_records(self) -> None:
        """Stop looking, and leave what is registered to a successor of the same owner. See `join`."""
        if self._registrar is not None:
            self._registrar.keep_records()
        self.stop()

    async def join(self, timeout: float) -> bool:
        """Wait until both is done. False if one has not ended within `timeout` seconds: it is then abandoned."""
        stopped, withdrawn = await asyncio.gather(
            self._runner.join(timeout), wait_for_tasks(self._registrar_tasks, timeout)
        )
        return stopped and withdrawn

    def unlock(self) -> None:
        """Leave the run directory to another."""
        self._runner.unlock()

    @property
    def stop_seconds(self) -> float:
        """Seconds that the provider may take to stop."""
        return self._runner.stop_seconds

    @property
    def _default_owner(self) -> DefaultOwner:
        return DefaultOwner(self.name, lock_path(self._run_dir, self.name), self._machine)

    def _new_runner(self) -> ProviderRunner:
        return ProviderRunner(
            self._instance, self._run_dir, self._log, self._publish, self._lookup, self._changed, self._state_dir
        )

    # On the provider's thread

    def _publish(self, backends: tuple[Backend, ...]) -> None:
        with suppress(RuntimeError):  # the daemon has ended and abandoned this provider
            self._loop.call_soon_threadsafe(self._receive, backends)

    # On the core's loop

    def _receive(self, backends: tuple[Backend, ...]) -> None:
        if self._stopping:
            return
        if self._wanted is None:
            self._machine = self._runner.status.machine
        self._wanted = backends
        if self._registrar is None:
            self._register()
        else:
            self._registrar.set(backends)
        self._report()

    def _register(self) -> None:
        instance, log = self._instance, self._log.bind(provider=self._instance.name)
        default = self._default_owner
        registrar = Registrar(
            self._registry,
            instance.owner or str(default),
            instance.ttl,
            log,
            force=instance.force,
            takeover=instance.takeover,
            succeeds=default.succeeds if not instance.owner else lambda owner: False,
            changed=lambda _: self._report(),
        )
        registrar.set(self._wanted or ())
        self._registrar = registrar
        self._registrar_tasks.append(asyncio.create_task(self._run_registrar(registrar)))

    async def _run_registrar(self, registrar: Registrar) -> None:
        waits = delays()
        while not is_being_cancelled():
            try:
                await registrar.run()
            except Exception as error:  # noqa: BLE001 - the registry may be a plugin's, which may raise anything
                self._fault = describe(error)
                self._log.error("cannot register", provider=self.name, reason=self._fault, exc_info=error)
                await asyncio.sleep(0 if is_being_cancelled() else next(waits))

    async def _replace_registrar(self, *, another_owner: bool) -> None:
        if self._registrar is None:
            return
        before = self._registrar_tasks.copy()
        if another_owner:  # which would be refused what the one before still holds
            _cancel(before)
            await wait_for_tasks(before, HANDOVER)
        self._register()
        with suppress(TimeoutError):
            async with asyncio.timeout(HANDOVER):
                while not self._settled():
                    self._reported.clear()
                    await self._reported.wait()
        _cancel(before)
        await wait_for_tasks(before, HANDOVER)
        self._registrar_tasks = [task for task in self._registrar_tasks if task not in before]

    def _report(self) -> None:
        if self._registrar is not None and self._registrar.status.registered:
            self._fault = None
        self._ready = self._ready or self._settled()
        self._reported.set()

    def _settled(self) -> bool:
        """True if the registry has answered for every wanted key."""
        if self._registrar is None or self._wanted is None:
            return False
        status = self._registrar.status
        refused = {key for key, error in status.failing.items() if isinstance(error, OwnedByAnotherError | RecordError)}
        return {each.key for each in self._wanted} <= status.registered | refused


def _registration(instance: ProviderInstance) -> dict[str, Any]:
    """Return the fields of an instance that matter to its registrar alone."""
    return {name: getattr(instance, name) for name in ("owner", "ttl", "force", "takeover")}


def _cancel(tasks: Iterable[asyncio.Task[None]]) -> None:
    for task in tasks:
        if not task.cancelling():  # a second time would cut the withdrawing short
            task.cancel()
