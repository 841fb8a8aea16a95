"""Providers that find what a test says, and what runs one."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog
from structlog.testing import CapturingLogger
from structlog.typing import FilteringBoundLogger

from discovery import Backend, PluginConfig
from discovery.checks import Check, Outcome, Verdict
from discovery.hosting.isolation import TIMING, Phase, Timing
from discovery.plugin import AnyProvider, Candidate, Inventory, Provider
from discovery.providing.runner import ProviderInstance, ProviderRunner
from discovery.system.lookups import RememberedLookups
from discovery.testing import backend, eventually_sync, within


class Options(PluginConfig):
    tag: str = ""


@dataclass
class World:
    """What there is to be found, or what finding it raises; changed by a test, seen by a provider soon."""

    now: Any
    events: list[str] = field(default_factory=list)


class Finder(Provider[Options]):
    """Yields what its world is whenever that is another; each test has a subclass with a world of its own."""

    Config = Options
    world: World

    async def setup(self) -> None:
        self.world.events.append(f"setup {self.config.tag}".strip())

    async def discover(self) -> AsyncGenerator[Inventory, None]:
        seen = None
        try:
            while True:
                now = self.world.now
                if isinstance(now, BaseException):
                    raise now
                if now is not seen:
                    seen = now
                    yield now
                await asyncio.sleep(0.005)
        finally:
            self.world.events.append("closed")

    async def teardown(self) -> None:
        self.world.events.append(f"teardown {self.config.tag}".strip())


def found(*ports: int, problems: Mapping[str, str] | None = None, checks: tuple[Check, ...] = ()) -> Inventory:
    return Inventory(tuple(Candidate(backend(port=port), checks) for port in ports), problems or {})


def finder(now: Any, **methods: Any) -> type[Finder]:
    return type("Finding", (Finder,), {"world": World(now), **methods})


def instance(provider: type[AnyProvider], tag: str = "", name: str = "it") -> ProviderInstance:
    return ProviderInstance(name, "test", provider, Options(tag=tag))


@dataclass
class Running:
    """A runner, what it published, and what it logged as (level, message, the rest)."""

    runner: ProviderRunner
    published: list[tuple[Backend, ...]]
    calls: list[Any]
    changes: list[Phase] = field(default_factory=list)

    @property
    def ports(self) -> list[int] | None:
        """Those published last."""
        return [each.port for each in self.published[-1]] if self.published else None

    def logged(self, message: str) -> list[dict[str, Any]]:
        return [call.kwargs for call in self.calls if call.kwargs.get("event") == message]

    def publishes(self, *ports: int) -> None:
        eventually_sync(lambda: self.ports == list(ports), f"{ports} to be published")

    def in_phase(self, phase: Phase) -> None:
        eventually_sync(lambda: self.runner.status.phase is phase, f"the phase {phase}")


@contextmanager
def running(made: ProviderInstance, run_dir: Path, timing: Timing = TIMING) -> Iterator[Running]:
    published: list[tuple[Backend, ...]] = []
    logger = CapturingLogger()
    log: FilteringBoundLogger = structlog.wrap_logger(
        logger, processors=[], wrapper_class=structlog.make_filtering_bound_logger(0)
    )
    runner = ProviderRunner(
        made,
        run_dir,
        log,
        published.append,
        RememberedLookups(),
        lambda: it.changes.append(runner.status.phase),
        timing=timing,
    )
    it = Running(runner, published, logger.calls)
    runner.start()
    try:
        yield it
    finally:
        runner.stop()
        assert asyncio.run(runner.join(within(10)))


@dataclass(frozen=True)
class Says:
    """A probe that says what the list that it was given says now."""

    verdicts: Callable[[], Verdict]

    async def __call__(self, backend: Backend) -> Outcome:
        return Outcome(self.verdicts())
