"""`discovery watch`: prints every change of the registry as it happens."""

import asyncio
import os
import stat
import sys
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import TYPE_CHECKING

from discovery.cli.console import abandon_stdout, note, progress, result
from discovery.cli.options import ConfigOption, JsonOption, RegistryOption, close_registry, registry_at, settings_of
from discovery.cli.signals import run_until_signal
from discovery.system.terminal import shows_colours

if TYPE_CHECKING:
    from discovery.cli.records import ChangeSet
    from discovery.consuming.watcher import Observation
    from discovery.model import Rejected
    from discovery.registry import RegistryURL

_COLOURS = {"=": "\x1b[36m", "+": "\x1b[32m", "~": "\x1b[33m", "-": "\x1b[31m"}


def watch(as_json: JsonOption = False, registry: RegistryOption = None, config: ConfigOption = None) -> None:
    """Print every change of the registry at once.

    Ends only at Ctrl-C or SIGTERM.

    With --json there is a line for each change set: revision, reset, added, updated, removed. In a line with
    "reset": true (the first, and whenever the registry had to be listed again) "added" is the complete listing and
    "removed" has the backends that have gone since the line before.

    \b
    discovery watch
    discovery watch --json | jq .added
    """
    run_until_signal(_watch(settings_of(config, registry=registry).registry, as_json))


async def _watch(url: "RegistryURL", as_json: bool) -> None:
    from discovery.consuming.watcher import observe

    registry = registry_at(url)
    observations = observe(registry)
    _cancel_when_nobody_reads()
    try:
        with progress(str(url)) as over:
            await _tell(observations, _print_json if as_json else partial(_print_text, url), over)
    except BrokenPipeError:
        abandon_stdout()
    finally:
        await observations.aclose()
        await close_registry(registry)


async def _tell(
    observations: AsyncIterator["Observation"],
    tell: Callable[["ChangeSet"], None],
    answered: Callable[[], None],
) -> None:
    from discovery.cli.records import change_set, rejected_line

    previous = None
    rejected: tuple[Rejected, ...] = ()
    stale = False
    async for observation in observations:
        answered()
        if observation.stale is not None:
            note(f"the registry cannot be followed: {observation.stale}; trying again")
        elif stale:
            note("following the registry again")
        stale = observation.stale is not None
        if observation.snapshot is None or stale:
            continue
        if changes := change_set(previous, observation):
            tell(changes)
        previous = observation.snapshot
        if previous.rejected is not rejected:
            known = frozenset(rejected)
            for each in previous.rejected:
                if each not in known:
                    note(f"rejected {rejected_line(each)}")
            rejected = previous.rejected


def _print_json(changes: "ChangeSet") -> None:
    from discovery.cli.records import change_set_json

    result(change_set_json(changes))


def _print_text(url: "RegistryURL", changes: "ChangeSet") -> None:
    from discovery.cli.records import change_set_lines

    coloured = shows_colours(sys.stdout)
    for mark, line in change_set_lines(changes):
        if mark == "=" and not any(changes.snapshot.backends()):
            line = f"{line} in {url}"  # noqa: PLW2901 - an empty listing may be of the wrong registry
        result(f"{_COLOURS[mark]}{mark}\x1b[0m {line}" if coloured else f"{mark} {line}")


def _cancel_when_nobody_reads() -> None:
    # The write end of a pipe becomes readable only when the reader has gone. Other outputs fail at the next change.
    task = asyncio.current_task()
    if task is not None and stat.S_ISFIFO(os.fstat(1).st_mode):
        asyncio.get_running_loop().add_reader(1, task.cancel)
