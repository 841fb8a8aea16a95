"""Runs a plugin as the daemon runs plugins, on a registry in memory, and replays histories with faults."""

import asyncio
import logging
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import structlog

from discovery.codec import Record, decode, encode
from discovery.consuming.following import RegistryFeed
from discovery.consuming.resolving import Resolved, SnapshotResolver
from discovery.consuming.runner import ConsumerInstance, ConsumerRunner
from discovery.model import Backend, State
from discovery.plugin import AnyConsumer, AnyProvider, Consumer, Health, PluginConfig, Sample
from discovery.providing.provider import RunningProvider
from discovery.providing.runner import ProviderInstance
from discovery.registry import RegistryURL
from discovery.registry.memory import MemoryLease, MemoryRegistry
from discovery.system.lookups import RememberedLookups
from discovery.testing.builders import backend
from discovery.testing.support import eventually, within

_NAME = "plugin"
_STOP_SECONDS = 15.0
"""Seconds for the plugin to stop: the core gives 10, and more to a consumer that asks for more."""
_ANSWER_SECONDS = 2.0
"""Seconds for metrics and details."""
_SILENT = structlog.make_filtering_bound_logger(logging.CRITICAL)
"""The class of a log that nobody reads: most lines are not even made."""
_FAR = 1000
"""Revisions between the states before and after a loss, whose revisions begin at 1 again."""
_LEASE_SECONDS = 0.05
"""Seconds, the TTL of a lease that a history loses."""


class Running:
    """A plugin that runs, and its registry. On one event loop, which is not the plugin's.

    `registry` is the registry in memory: its methods cause changes and faults. `run_dir` is the plugin's run directory.
    """

    def __init__(self, registry: MemoryRegistry, run_dir: Path, runner: "ConsumerRunner | RunningProvider") -> None:
        """Keep the `registry`, the plugin's `run_dir` and the plugin's `runner`. `running` makes this object."""
        self.registry = registry
        self.run_dir = run_dir
        self._runner = runner

    def put(self, *backends: Backend) -> None:
        """Record `backends` in one revision, without a lease."""
        self.registry.change({each.key: encode(each) for each in backends})

    def remove(self, *backends: Backend) -> None:
        """Remove the records of `backends` in one revision."""
        self.registry.change({}, [each.key for each in backends])

    async def applied(self, timeout: float = 10) -> None:
        """Wait until the consumer has applied the present revision of the registry.

        Raises AssertionError after `timeout` seconds, with the consumer's last error. DISCOVERY_TEST_PATIENCE
        multiplies the seconds.
        """

        def holds() -> bool:
            status: Any = self._runner.status
            if status.error is not None:
                raise AssertionError(f"the last apply or setup has failed: {status.error}")
            return bool(status.applied_revision == self.registry.revision)

        await eventually(holds, f"revision {self.registry.revision} to be applied", timeout)

    async def registers(self, *backends: Backend, timeout: float = 10) -> None:
        """Wait until the provider has registered `backends` and no others.

        Raises AssertionError after `timeout` seconds. DISCOVERY_TEST_PATIENCE multiplies the seconds.
        """
        await eventually(lambda: self.registered == set(backends), f"{backends} to be registered", timeout)

    @property
    def registered(self) -> set[Backend]:
        """The backends in the registry."""
        decoded = (decode(key, value) for key, value in self.registry.records.items())
        return {each.backend for each in decoded if isinstance(each, Record)}

    @property
    def error(self) -> str | None:
        """The reason in a line why the last setup, apply or discovery has failed; None if it has not."""
        error: str | None = self._own.error
        return error

    @property
    def health(self) -> Health:
        """The health that the plugin has told last."""
        health: Health = self._own.health
        return health

    @property
    def phase(self) -> str:
        """The present work in a word: starting, waiting, applying, retrying, stopped or dead."""
        return str(self._own.phase)

    def request_apply(self) -> None:
        """Let the consumer apply the latest snapshot again, as after a reload of the configuration."""
        if isinstance(self._runner, ConsumerRunner):
            self._runner.reload()

    async def samples(self) -> tuple[Sample, ...]:
        """Return the plugin's own metrics."""
        return await self._runner.samples(within(_ANSWER_SECONDS))

    async def inspect(self) -> Mapping[str, Any]:
        """Return the details that the plugin tells about its state."""
        return await self._runner.inspect(within(_ANSWER_SECONDS))

    @property
    def _own(self) -> Any:
        """The status of the plugin's own runner."""
        status: Any = self._runner.status
        return status if isinstance(self._runner, ConsumerRunner) else status.runner


@asynccontextmanager
async def running(
    plugin: type[AnyConsumer] | type[AnyProvider],
    config: Mapping[str, Any] = MappingProxyType({}),
    *,
    directory: Path | None = None,
) -> AsyncIterator[Running]:
    """Run `plugin`, a class of a consumer or a provider with the options `config`, for a block.

    The plugin has a thread of its own, retries, health checks and a registry in memory, as in a daemon. `directory`
    has the run directory and the state directory; by default these are temporary. Raises what the validation of
    `config` raises.
    """
    log = structlog.get_logger("running")
    async with AsyncExitStack() as stack:
        top = directory or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        run_dir, state_dir = top / "run", top / "state"
        for each in (run_dir, state_dir):
            each.mkdir(parents=True, exist_ok=True, mode=0o700)
        registry = MemoryRegistry()
        if issubclass(plugin, Consumer):
            options = plugin.Config.model_validate(config)
            runner = await stack.enter_async_context(_consumer(plugin, options, registry, run_dir, state_dir, log))
        else:
            runner = await stack.enter_async_context(_provider(plugin, config, registry, run_dir, state_dir, log))
        yield Running(registry, run_dir / _NAME, runner)


@asynccontextmanager
async def running_consumer(
    plugin: type[AnyConsumer], config: PluginConfig, run_dir: Path, state_dir: Path
) -> AsyncIterator[Running]:
    """Run a consumer as `running` does, with a `config` that is validated, in directories that are there. No logs."""
    registry, log = (
        MemoryRegistry(),
        structlog.wrap_logger(structlog.ReturnLogger(), processors=[], wrapper_class=_SILENT),
    )
    async with _consumer(plugin, config, registry, run_dir, state_dir, log) as runner:
        yield Running(registry, run_dir / _NAME, runner)


@asynccontextmanager
async def _consumer(
    plugin: type[AnyConsumer],
    config: PluginConfig,
    registry: MemoryRegistry,
    run_dir: Path,
    state_dir: Path,
    log: Any,
) -> AsyncIterator["ConsumerRunner | RunningProvider"]:
    instance = ConsumerInstance(_NAME, _NAME, plugin, config)
    runner = ConsumerRunner(instance, run_dir, log, state_dir=state_dir / _NAME)

    def offer(resolved: Resolved) -> None:
        runner.offer(resolved.snapshot, resolved.addresses)

    resolver = SnapshotResolver(log, offer)
    feed = RegistryFeed(log, resolver.take, lambda: None)
    runner.start()
    try:
        await feed.follow(registry, RegistryURL("memory"), state_dir)
        yield runner
    finally:
        await feed.stop()
        await resolver.close()
        runner.stop()
        await runner.join(within(max(_STOP_SECONDS, runner.stop_seconds)))


@asynccontextmanager
async def _provider(
    plugin: type[AnyProvider],
    config: Mapping[str, Any],
    registry: MemoryRegistry,
    run_dir: Path,
    state_dir: Path,
    log: Any,
) -> AsyncIterator["ConsumerRunner | RunningProvider"]:
    instance = ProviderInstance(_NAME, _NAME, plugin, plugin.Config.model_validate(config), owner="running")
    runner = RunningProvider(instance, registry, run_dir, log, RememberedLookups(), lambda: None, state_dir / _NAME)
    runner.start()
    try:
        yield runner
    finally:
        runner.stop()
        await runner.join(within(_STOP_SECONDS))


@dataclass(frozen=True)
class RecordedHistory:
    """A history of a registry, with faults. Each ends with the same backends of `service`, whatever was before.

    `name` says which fault the history has. `RecordedHistory.all` makes every history, and `play` plays one on a
    consumer that runs.
    """

    name: str
    service: str
    steps: "tuple[Callable[[Running, str], Any], ...]"
    """Functions, or coroutine functions, that change the registry of a `Running` for a service."""
    last: tuple[Backend, ...] = ()
    """The backends at the end."""
    NAMES: ClassVar[tuple[str, ...]] = ("burst", "outage", "compaction", "lost lease", "flapping", "reset")

    @classmethod
    def all(cls, service: str = "web", last: tuple[Backend, ...] = ()) -> "tuple[RecordedHistory, ...]":
        """Return every history, with backends of `service`. Each ends with the backends `last`, by default three."""
        last = last or _last(service)

        def earlier(plugin: Running, _: str) -> None:
            plugin.registry.revision += _FAR  # else a revision after the loss may be one that was applied before
            plugin.put(*(replace(each, port=each.port % 65535 + 1) for each in last))

        def end(plugin: Running, _: str) -> None:
            gone = plugin.registry.records.keys() - {each.key for each in last}
            plugin.registry.change({each.key: encode(each) for each in last}, gone)

        steps: dict[str, tuple[Callable[[Running, str], Any], ...]] = {
            "burst": (_burst, end),
            "outage": (_begin_outage, _burst, _pause, end, _end_outage),
            "compaction": (_burst, _compact, end, _compact),
            "lost lease": (_lease, _pause, _lose_lease, end),
            "flapping": (_flap, end),
            "reset": (earlier, _pause, _reset, end),
        }
        return tuple(cls(name, service, steps[name], last) for name in cls.NAMES)

    def end(self) -> tuple[Backend, ...]:
        """Return the backends at the end of the history."""
        return self.last or _last(self.service)

    async def play(self, plugin: Running) -> None:
        """Play the history on `plugin`, and wait until the consumer has applied its end. Raises AssertionError."""
        for step in self.steps:
            result = step(plugin, self.service)
            if asyncio.iscoroutine(result):
                await result
        await plugin.applied()


def _last(service: str) -> tuple[Backend, ...]:
    return (
        backend(service, "a", "127.0.0.1", 9001),
        backend(service, "b", "127.0.0.2", 9002, weight=2, labels={"zone": "x"}),
        backend(service, "c", "127.0.0.3", 9003, state=State.DRAINING),
    )


def _burst(plugin: Running, service: str) -> None:
    """Make 200 changes at once."""
    for number in range(200):
        each = backend(service, f"n{number % 40}", "127.0.0.1", 10_000 + number)
        plugin.put(each) if number % 3 else plugin.remove(replace(each, id=f"n{(number + 7) % 40}"))


async def _flap(plugin: Running, service: str) -> None:
    """Put and remove the same backend, while the consumer applies."""
    for _ in range(20):
        plugin.put(backend(service, "flap", "127.0.0.1", 9009))
        await asyncio.sleep(0.002)
        plugin.remove(backend(service, "flap", "127.0.0.1", 9009))
        await asyncio.sleep(0.002)


def _begin_outage(plugin: Running, service: str) -> None:
    plugin.registry.set_stale("an outage of the history")


def _end_outage(plugin: Running, service: str) -> None:
    plugin.registry.set_fresh()


def _compact(plugin: Running, service: str) -> None:
    plugin.registry.compact()


def _reset(plugin: Running, service: str) -> None:
    plugin.registry.lose()


async def _pause(plugin: Running, service: str) -> None:
    await asyncio.sleep(0.05)


async def _lease(plugin: Running, service: str) -> None:
    """Register a backend under a lease."""
    lease = await plugin.registry.open_lease("history", _LEASE_SECONDS)
    await lease.put(backend(service, "leased", "127.0.0.1", 9010))


async def _lose_lease(plugin: Running, service: str) -> None:
    """Let the lease expire, as if its owner hung."""
    key = backend(service, "leased").key
    lease = plugin.registry.holder(key)
    assert isinstance(lease, MemoryLease)
    lease.freeze()
    await eventually(lambda: key not in plugin.registry.records, "the lease to expire")
