"""Finds faults that would keep instances from running, without running the instances. Changes nothing."""

import os
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from structlog.typing import FilteringBoundLogger

from discovery.consuming.runner import ConsumerInstance
from discovery.consuming.selection import narrowed, unmatched
from discovery.daemon.faults import dotted
from discovery.daemon.instances import Instances
from discovery.errors import CannotStartError, DiscoveryError, describe
from discovery.hosting.directories import Directories
from discovery.model import Snapshot, diff
from discovery.plugin import Context, Update, Validation
from discovery.system.either import completed
from discovery.system.listening import binds_conflict
from discovery.system.rundir import check_run_dir

if TYPE_CHECKING:
    from discovery.providing.runner import ProviderInstance

_EMPTY = Snapshot.of(0, ())
NOTHING = Update(_EMPTY, None, diff(None, _EMPTY))
"""The update of a registry without records."""


async def validate_instances(
    instances: Instances, updates: Sequence[Update], directories: Directories, log: FilteringBoundLogger
) -> Validation:
    """Have every instance validate its options and return what all of them found.

    A consumer validates with each of `updates`, up to the first that shows a fault. A line of the result begins with
    the table of the instance, for example `consumers.haproxy`; a line about the run directory has no table.
    """
    found = [_run_dir(directories.run_dir)]
    listens: dict[str, tuple[str, ...]] = {}
    files: dict[str, tuple[str, ...]] = {}
    for name, consumer in instances.consumers.items():
        context = directories.context(name, log.bind(consumer=name))
        for update in updates:
            validated = await _validated(partial(_by_consumer, consumer, context, update))
            found.append(_placed(("consumers", name), validated))
            nothing = tuple(f"filter: {each}" for each in unmatched(consumer.filter, update.snapshot))
            found.append(_placed(("consumers", name), Validation(unchecked=nothing)))
            listens[dotted(("consumers", name))] = validated.listens
            files[dotted(("consumers", name))] = validated.files
            if validated.faults:
                break  # with other records the same faults would have other line numbers
    for name, provider in instances.providers.items():
        context = directories.context(name, log.bind(provider=name))
        validated = await _validated(partial(_by_provider, provider, context))
        found.append(_placed(("providers", name), validated))
    found.append(Validation((*_shared_addresses(listens), *_shared_files(files))))
    return Validation(
        faults=_distinct(each.faults for each in found),
        unchecked=_distinct(each.unchecked for each in found),
        announces=_distinct(each.announces for each in found),
    )


def _shared_addresses(listens: Mapping[str, Iterable[str]]) -> Iterator[str]:
    """The faults of instances, by table, that would listen where another would."""
    taken: dict[str, str] = {}
    for table, addresses in listens.items():
        for address in addresses:
            meeting = next((each for each in taken if taken[each] != table and binds_conflict(address, each)), None)
            if meeting is not None:
                at = address if address == meeting else f"{address}, which meets {meeting},"
                yield f"{table}: {at} is an address of {taken[meeting]} as well: give one another address"
            taken.setdefault(address, table)


def _shared_files(files: Mapping[str, Iterable[str]]) -> Iterator[str]:
    """The faults of instances, by table, that would write a file which another writes, also by another path."""
    taken: dict[str, tuple[str, str]] = {}
    for table, paths in files.items():
        for path in paths:
            other, its_path = taken.setdefault(os.path.realpath(path), (table, path))
            if other != table:
                at = path if path == its_path else f"{path}, which is {its_path},"
                yield f"{table}: {at} is a file of {other} as well: give one another file"


def _run_dir(path: Path) -> Validation:
    """The fault of a run directory, as a daemon would report it. A daemon makes a directory that is missing."""
    try:
        if not path.exists():
            return Validation()
        owner = path.stat().st_uid
        check_run_dir(path, owner)
    except CannotStartError as error:
        return Validation(faults=(str(error),))
    except OSError as error:
        return Validation(unchecked=(f"the run directory {path}: {error.strerror}",))
    if owner != os.geteuid():
        return Validation(
            unchecked=(f"the run directory {path} belongs to another user: a daemon has to run as that one",)
        )
    return Validation()


def _by_consumer(instance: ConsumerInstance, context: Context, update: Update) -> Awaitable[Validation] | Validation:
    return instance.consumer(instance.config, context).validate(narrowed(update, instance.filter))


def _by_provider(instance: "ProviderInstance", context: Context) -> Awaitable[Validation] | Validation:
    return instance.provider(instance.config, context).validate()


async def _validated(validate: Callable[[], Awaitable[Validation] | Validation]) -> Validation:
    try:
        found: Any = await completed(validate())
        if not isinstance(found, Validation):
            raise TypeError(f"`validate` returned {found!r}")
        told = (found.faults, found.unchecked, found.listens, found.announces, found.files)
        return Validation(*(tuple(map(str, lines)) for lines in told))
    except DiscoveryError as error:
        return Validation(faults=(describe(error),))
    except Exception as error:  # noqa: BLE001 - a plugin may raise anything
        return Validation(unchecked=(f"the plugin's own validation failed: {describe(error)}",))


def _placed(table: tuple[str, str], validation: Validation) -> Validation:
    place = dotted(table)
    return Validation(
        faults=tuple(f"{place}: {each}" for each in validation.faults),
        unchecked=tuple(f"{place}: {each}" for each in validation.unchecked),
        announces=tuple(f"{place}: {each}" for each in validation.announces),
    )


def _distinct(groups: Iterable[Iterable[str]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(line for group in groups for line in group))
