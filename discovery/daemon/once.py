"""A single pass without a daemon: apply the current state, or show what would change or be registered."""

import asyncio
from collections.abc import Iterable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, NamedTuple

from structlog.typing import FilteringBoundLogger

from discovery.consuming.events import contained_events
from discovery.consuming.owners import Owners
from discovery.consuming.resolving import Resolved
from discovery.consuming.runner import ConsumerInstance
from discovery.consuming.selection import narrowed
from discovery.consuming.watcher import SnapshotBuilder
from discovery.daemon.instances import Instances
from discovery.errors import ConfigError, DiscoveryError, RegistryUnavailableError, describe
from discovery.hosting.directories import Directories
from discovery.hosting.isolation import fault_of, printable_lines
from discovery.model import Snapshot, diff
from discovery.plugin import Candidate, Inventory, Update
from discovery.providing.checker import CandidateStatus, Checker
from discovery.providing.runner import ProviderInstance, valid_candidates
from discovery.registry import Registry
from discovery.system import rundir
from discovery.system.asyncio_tools import cancel_and_wait
from discovery.system.either import called, completed, iterated
from discovery.system.lookups import Lookup, RememberedLookups


@dataclass(frozen=True, slots=True)
class Survey:
    """The inventory of a provider: every candidate, checked once, by key; problems and skipped things by name."""

    candidates: Mapping[str, CandidateStatus]
    problems: Mapping[str, str]
    skipped: Mapping[str, str]


class Contents(NamedTuple):
    """The registry's state at a moment: the snapshot, and the owners of the snapshot's records."""

    snapshot: Snapshot
    owners: Owners


async def current_snapshot(registry: Registry, timeout: float) -> Snapshot:
    """Return the registry's state now. Raises RegistryUnavailableError, with the reason, after `timeout` seconds."""
    return (await current_contents(registry, timeout)).snapshot


async def current_contents(registry: Registry, timeout: float) -> Contents:
    """Return the registry's state and the owners now. Raises RegistryUnavailableError as `current_snapshot` does."""
    reason = "it does not answer"
    builder = SnapshotBuilder()
    try:
        async with asyncio.timeout(timeout), aclosing(contained_events(registry)) as events:
            async for event in events:
                observation = builder.apply(event)
                if observation.stale is not None:
                    reason = observation.stale
                elif observation.snapshot is not None:
                    return Contents(observation.snapshot, builder.owners.told)
    except TimeoutError:
        pass
    raise RegistryUnavailableError(f"the registry could not be read within {timeout:g} s: {reason}")


def check_once(instances: Instances, directories: Directories, log: FilteringBoundLogger) -> None:
    """Raise ConfigError for a provider, and for a consumer that has to keep running after an apply."""
    for name in instances.providers:
        raise ConfigError(
            f"--once: what the provider {name!r} finds is registered for as long as it runs, and would be gone at the"
            " end; run it without --once, or see with --dry-run what it would register"
        )
    for instance in instances.consumers.values():
        if _is_resident(instance, directories, log):
            raise ConfigError(
                f"--once: what the consumer {instance.name!r} drives ends with the daemon, and nothing would be left"
                " after --once; run it without --once, or configure it to drive a program that runs by itself"
                " (a plugin whose effect stays says so by `resident = False`)"
            )


def _is_resident(instance: ConsumerInstance, directories: Directories, log: FilteringBoundLogger) -> bool:
    """Return True if what a consumer drives ends with the daemon; False if the consumer fails, as the apply will."""
    try:
        return instance.consumer(instance.config, directories.context(instance.name, log)).resident
    except Exception:  # noqa: BLE001 - a plugin may raise anything
        return False


async def apply_once(
    instances: Iterable[ConsumerInstance], resolved: Resolved, directories: Directories, log: FilteringBoundLogger
) -> dict[str, str]:
    """Apply a snapshot to each consumer. Return the reason of each failure, by the name of the consumer."""
    failed = {}
    for instance in instances:
        context = directories.context(instance.name, log.bind(consumer=instance.name))
        try:
            with rundir.lock(context.run_dir / "lock", f"consumer {instance.name!r}"):
                consumer = instance.consumer(instance.config, context)
                try:
                    await completed(consumer.setup())
                    await completed(consumer.apply(first_update_of(instance, resolved)))
                    # A consumer that leaves out what cannot be applied reports that by its health.
                    if (fault := fault_of(await completed(consumer.health()))) is not None:
                        failed[instance.name] = fault
                finally:
                    await asyncio.create_task(called(consumer.teardown))  # as in isolation.py
        except Exception as error:  # noqa: BLE001 - a plugin may raise anything
            failed[instance.name] = describe(error)
    return failed


async def preview(
    instances: Iterable[ConsumerInstance], resolved: Resolved, directories: Directories, log: FilteringBoundLogger
) -> dict[str, str | DiscoveryError]:
    """Return each consumer's changes, as a diff, or the reason why the changes are not known. Changes nothing."""
    results: dict[str, str | DiscoveryError] = {}
    for instance in instances:
        context = directories.context(instance.name, log.bind(consumer=instance.name))
        try:
            consumer = instance.consumer(instance.config, context)
            previewed: Any = await completed(consumer.preview(first_update_of(instance, resolved)))
            if not isinstance(previewed, str):
                raise TypeError(f"its preview returned {previewed!r}, and no text")
            results[instance.name] = previewed
        except NotImplementedError:
            results[instance.name] = DiscoveryError(
                f"the plugin {instance.plugin!r} cannot show what it would change: it has no `preview`"
            )
        except Exception as error:  # noqa: BLE001 - a plugin may raise anything
            results[instance.name] = DiscoveryError(describe(error))
    return results


def first_update(resolved: Resolved) -> Update:
    """Return the update for a consumer that has applied nothing yet and is told everything."""
    return Update(resolved.snapshot, None, diff(None, resolved.snapshot), resolved.addresses)


def first_update_of(instance: ConsumerInstance, resolved: Resolved) -> Update:
    """Return the update for `instance`, which has applied nothing yet and is told what its filter selects."""
    return narrowed(first_update(resolved), instance.filter)


async def survey(
    instances: Iterable[ProviderInstance], directories: Directories, log: FilteringBoundLogger, timeout: float
) -> dict[str, Survey | DiscoveryError]:
    """Return each provider's findings within `timeout` seconds, checked a single time, or why these are not known.

    Changes nothing.
    """
    results: dict[str, Survey | DiscoveryError] = {}
    lookup = RememberedLookups()
    for instance in instances:
        try:
            async with asyncio.timeout(timeout):
                inventory = await _first_inventory(instance, directories, log)
            candidates, problems = valid_candidates(inventory)
            checked = await _checked_once(candidates, log, lookup, timeout)
            results[instance.name] = Survey(checked, problems, printable_lines(inventory.skipped))
        except TimeoutError:
            results[instance.name] = DiscoveryError(f"it has told nothing within {timeout:g} s")
        except Exception as error:  # noqa: BLE001 - a plugin may raise anything
            results[instance.name] = DiscoveryError(describe(error))
    return results


async def _first_inventory(
    instance: ProviderInstance, directories: Directories, log: FilteringBoundLogger
) -> Inventory:
    context = directories.context(instance.name, log.bind(provider=instance.name))
    provider = instance.provider(instance.config, context)
    try:
        await completed(provider.setup())
        async with aclosing(iterated(provider.discover())) as inventories:
            async for inventory in inventories:
                return inventory
    finally:
        await asyncio.create_task(called(provider.teardown))  # as in isolation.py
    raise DiscoveryError("the provider has ended its discovery by itself")


async def _checked_once(
    candidates: Iterable[Candidate], log: FilteringBoundLogger, lookup: Lookup, timeout: float
) -> Mapping[str, CandidateStatus]:
    first_result = asyncio.Event()
    checker = Checker(lambda _: first_result.set(), log, lookup, patience=timeout)
    checker.set(candidates)
    tasks: set[asyncio.Task[Any]] = {asyncio.create_task(checker.run()), asyncio.create_task(first_result.wait())}
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return checker.status
    finally:
        await cancel_and_wait(*tasks)
