"""A recording consumer in a runner, for tests of the runner."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import structlog

from discovery import Consumer, PluginConfig, Snapshot, Update
from discovery.consuming.runner import ConsumerInstance, ConsumerRunner
from discovery.hosting.isolation import TIMING, Phase, Timing
from discovery.testing import backend, snapshot, within

LOG = structlog.get_logger()


class Options(PluginConfig):
    tag: str = ""


def instance(
    consumer: type[Consumer[Any]], name: str = "it", tag: str = "", quiet_period: float = 0
) -> ConsumerInstance:
    return ConsumerInstance(name, "test", consumer, Options(tag=tag), quiet_period)


class Recorder(Consumer[Options]):
    """Records what it is told; class attributes are set by each test in a subclass of its own."""

    Config = Options
    updates: list[Update]
    events: list[str]

    async def setup(self) -> None:
        self.events.append(f"setup {self.config.tag}".strip())

    async def apply(self, update: Update) -> None:
        self.updates.append(update)

    async def teardown(self) -> None:
        self.events.append(f"teardown {self.config.tag}".strip())


def recorder(**methods: Any) -> type[Recorder]:
    return type("Recording", (Recorder,), {"updates": [], "events": [], **methods})


@contextmanager
def running(made: ConsumerInstance, run_dir: Path, timing: Timing = TIMING) -> Iterator[ConsumerRunner]:
    runner = ConsumerRunner(made, run_dir, LOG, timing=timing)
    runner.start()
    try:
        yield runner
    finally:
        runner.stop()
        asyncio.run(runner.join(within(5)))


def revisions(updates: list[Update]) -> list[int]:
    return [update.snapshot.revision for update in updates]


def phase_is(runner: ConsumerRunner, phase: Phase) -> Callable[[], bool]:
    return lambda: runner.status.phase is phase


def at(revision: int, *ports: int) -> Snapshot:
    return snapshot(*(backend(port=port) for port in ports), revision=revision)
