"""One pass without a daemon: apply the current state, or show what would change."""

import asyncio
from collections.abc import Iterable
from contextlib import aclosing
from pathlib import Path

from structlog.typing import FilteringBoundLogger

from discovery import rundir
from discovery.errors import ConfigError, DiscoveryError, RegistryUnavailableError
from discovery.isolation import describe
from discovery.model import Snapshot, diff
from discovery.plugin import Context, Update
from discovery.registry import Registry
from discovery.runner import Instance
from discovery.watcher import observe


async def current_snapshot(registry: Registry, timeout: float) -> Snapshot:
    """The registry's state now. Raises RegistryUnavailableError, with the reason, after `timeout` seconds."""
    reason = "it does not answer"
    try:
        async with asyncio.timeout(timeout), aclosing(observe(registry)) as observations:
            async for observation in observations:
                if observation.stale is not None:
                    reason = observation.stale
                elif observation.snapshot is not None:
                    return observation.snapshot
    except TimeoutError:
        pass
    raise RegistryUnavailableError(f"the registry could not be read within {timeout:g} s: {reason}")


def check_once(instances: Iterable[Instance], run_dir: Path, log: FilteringBoundLogger) -> None:
    """Raise ConfigError if a consumer would have to keep running after it has applied."""
    for instance in instances:
        if instance.consumer(instance.config, Context(instance.name, run_dir / instance.name, log)).resident:
            raise ConfigError(
                f"--once: the consumer {instance.name!r} has to keep running for what it drives to run;"
                " run it without --once, or configure it to drive a program that runs by itself"
            )


async def apply_once(
    instances: Iterable[Instance], snapshot: Snapshot, run_dir: Path, log: FilteringBoundLogger
) -> dict[str, str]:
    """Apply `snapshot` to each consumer; what failed, by name, with the reason."""
    failed = {}
    for instance in instances:
        context = Context(instance.name, run_dir / instance.name, log.bind(consumer=instance.name))
        try:
            with rundir.lock(context.run_dir / "lock", f"consumer {instance.name!r}"):
                consumer = instance.consumer(instance.config, context)
                try:
                    await consumer.setup()
                    await consumer.apply(Update(snapshot, None, diff(None, snapshot)))
                finally:
                    await consumer.teardown()
        except Exception as error:  # noqa: BLE001 - a plugin may raise anything
            failed[instance.name] = describe(error)
    return failed


async def preview(
    instances: Iterable[Instance], snapshot: Snapshot, run_dir: Path, log: FilteringBoundLogger
) -> dict[str, str | DiscoveryError]:
    """What each consumer would change, as a diff, or why it cannot tell. Touches nothing."""
    results: dict[str, str | DiscoveryError] = {}
    for instance in instances:
        context = Context(instance.name, run_dir / instance.name, log.bind(consumer=instance.name))
        try:
            consumer = instance.consumer(instance.config, context)
            results[instance.name] = await consumer.preview(Update(snapshot, None, diff(None, snapshot)))
        except Exception as error:  # noqa: BLE001 - a plugin may raise anything
            results[instance.name] = DiscoveryError(describe(error))
    return results
