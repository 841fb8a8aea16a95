"""A life of a provider: what a provider yields when its world changes and changes back."""

import asyncio
import inspect
import os
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from discovery.checks import Check, Outcome
from discovery.errors import describe
from discovery.model import Backend
from discovery.plugin import AnyProvider, Candidate, Inventory
from discovery.testing import process
from discovery.testing.consumers.gentle import declared_paths
from discovery.testing.consumers.life import dump_of
from discovery.testing.providers.place import ProviderPlace, Watcher
from discovery.testing.recorder import Recorder
from discovery.testing.support import within
from discovery.testing.watching import limited

IDLE_SECONDS = 0.5
"""Seconds for which a provider is watched while nothing changes."""
MOST_IDLE = 100
"""Inventories in these seconds: a provider may look every few milliseconds, and not as fast as it can."""
_SAMPLE_SECONDS = 0.02
"""Seconds between two looks at the stack of the provider's thread."""
_BLOCKING_SECONDS = 0.3
"""Seconds of a probe from which on its looks tell whether the probe blocks: checks of all candidates share the loop."""
_BEGUN = 2
"""Discoveries that are begun in turn while nothing changes."""
BLOCKED = 0.9
"""Share of the looks that find a thread busy that blocks its event loop."""


@dataclass
class Observed:
    """The observations of a life in world 0, world 1 and world 0 again, and of a time in which nothing changes."""

    inventories: list[Inventory] = field(default_factory=list)
    copies: list[object] = field(default_factory=list)
    phases: list[int] = field(default_factory=list)
    """The number of inventories at the end of each phase."""
    idle: int = 0
    """The number of inventories while nothing changes."""
    ended: str = ""
    """The end of `discover` while nothing changes."""
    busy: float = 0.0
    stack: str = ""
    restless: list[Inventory] = field(default_factory=list)
    """The inventories that differ from their predecessor while nothing changes."""
    requests: int = 0
    """The requests for another `discover` while nothing changes."""
    requests_when_begun: list[int] = field(default_factory=list)
    """The requests until the first inventory, and a moment longer, of discoveries that were begun in turn."""
    changed: dict[str, object] = field(default_factory=dict)
    outside: list[str] = field(default_factory=list)
    """The files that the provider has written outside its directories, and that are still there."""
    config: tuple[object, object] = (None, None)
    """The options at the beginning and at the end."""
    outcomes: list[object] = field(default_factory=list)
    rehashed: list[Candidate] = field(default_factory=list)
    """The candidates whose hash is another after their probes were run."""
    blocking: list[str] = field(default_factory=list)
    """The probes that block their event loop."""

    @property
    def candidates(self) -> list[Candidate]:
        """Every candidate of every inventory."""
        return [each for inventory in self.inventories for each in getattr(inventory, "candidates", ())]


def observe(place: ProviderPlace) -> Observed:
    """Run a provider through the worlds of `place`, and return what was seen."""
    observed, settings, is_slow = Observed(), process.settings(), place._is_slow  # noqa: SLF001 - its own place

    async def script(provider: AnyProvider) -> None:
        before = dump_of(provider.config)
        with Recorder() as recorder:
            async with place._watching(provider) as seen:  # noqa: SLF001
                await _live(place, seen, observed)
        for _ in range(1 if is_slow else _BEGUN):
            requests = place._requests  # noqa: SLF001
            async with place._watching(provider) as again:  # noqa: SLF001
                await again.first()
                await asyncio.sleep(0)
            observed.requests_when_begun.append(place._requests - requests)  # noqa: SLF001
        observed.config = before, dump_of(provider.config)
        observed.outside = _outside(place, provider, recorder.written)
        observed.inventories, observed.copies = seen.inventories, seen.copies
        observed.changed = process.changed_settings(settings, process.settings())
        await _look_at_all(observed)

    try:
        place._run(script)  # noqa: SLF001
    finally:
        process.restore(settings)
    return observed


async def _live(place: ProviderPlace, seen: Watcher, observed: Observed) -> None:
    first = await seen.first()
    observed.phases.append(len(seen.inventories))
    await place._arrange(1)  # noqa: SLF001
    await seen.another_than(first)
    await _quiet(seen)
    observed.phases.append(len(seen.inventories))
    await place._arrange(0)  # noqa: SLF001
    await seen.finds(first)
    await _quiet(seen)
    observed.phases.append(len(seen.inventories))
    await _idle(place, seen, observed)


async def _quiet(seen: Watcher) -> None:
    """Wait a moment for further inventories of the same change, such as an inventory that is yielded too early."""
    count = -1
    while count != len(seen.inventories) and len(seen.inventories) < MOST_IDLE:
        count = len(seen.inventories)
        await asyncio.sleep(0.05)


@contextmanager
def _sampling() -> Iterator[list[str]]:
    """Look at the stack of this thread again and again. Yields the places that were seen, "" while its loop waits."""
    thread, ended = threading.get_ident(), threading.Event()
    samples: list[str] = []

    def sample() -> None:
        while not ended.wait(_SAMPLE_SECONDS):
            frame = sys._current_frames().get(thread)  # noqa: SLF001 - the one way to the stack of another thread
            code = frame.f_code if frame else None
            at = f"{code.co_name} in {code.co_filename}:{frame.f_lineno}" if code and frame else ""
            samples.append("" if code and code.co_filename.endswith("selectors.py") else at)

    threading.Thread(target=sample, daemon=True, name="contract samples").start()
    try:
        yield samples
    finally:
        ended.set()


def _busy(samples: Sequence[str]) -> tuple[float, str]:
    """Return the share of the looks that found the thread busy, and the place of the last of them."""
    busy = [each for each in samples if each]
    return (len(busy) / len(samples), busy[-1]) if busy else (0.0, "")


def _outside(place: ProviderPlace, provider: AnyProvider, written: Iterable[str]) -> list[str]:
    """Return the files among `written` that are there, and neither in the provider's directories nor in its options."""
    context = provider.context
    own = [context.run_dir, context.state_dir, *declared_paths(place.config)]
    paths = {Path(os.path.abspath(path)) for path in written}  # noqa: PTH100 - without following links
    return sorted(str(path) for path in paths if path.is_file() and not any(map(path.is_relative_to, own)))


async def _idle(place: ProviderPlace, seen: Watcher, observed: Observed) -> None:
    count, requests, begun = len(seen.inventories), place._requests, time.monotonic()  # noqa: SLF001
    with _sampling() as samples:
        while time.monotonic() - begun < IDLE_SECONDS or len(samples) < 10:  # noqa: ASYNC110 - a thread wakes no loop
            await asyncio.sleep(0.01)
    observed.idle = len(seen.inventories) - count
    observed.requests = place._requests - requests  # noqa: SLF001
    observed.restless = [each for one, each in pairwise(seen.inventories[max(count - 1, 0) :]) if each != one][:3]
    observed.busy, observed.stack = _busy(samples)
    if seen.task.done():
        try:
            seen.raise_end()
        except Exception as error:  # noqa: BLE001 - examined by a clause
            observed.ended = describe(error)


async def _look_at_all(observed: Observed) -> None:
    """Run the probe of each check once."""
    looked: set[object] = set()
    for candidate in observed.candidates:
        for check in getattr(candidate, "checks", ()):
            key = (candidate.backend, repr(check))
            if isinstance(check, Check) and key not in looked:
                looked.add(key)
                before = _hash(check)
                begun = time.monotonic()
                with _sampling() as samples:
                    observed.outcomes.append(await _look(check, candidate.backend))
                busy, where = _busy(samples)
                if busy > BLOCKED and time.monotonic() - begun > _BLOCKING_SECONDS:
                    observed.blocking.append(f"{check.probe!r} in {where}")
                if _hash(check) != before:
                    observed.rehashed.append(candidate)


def _hash(value: object) -> object:
    """Return the hash of `value`, or the reason why it has none."""
    try:
        return hash(value)
    except Exception as error:  # noqa: BLE001 - a class may raise anything
        return describe(error)


async def _look(check: Check, backend: Backend) -> object:
    """Run a probe, and return the outcome. A probe may fail, which is a failing outcome."""
    outcome: object = Outcome()
    name = f"the probe {check.probe!r}, with a timeout of {check.timeout:g} s,"
    stated: Any = check.timeout
    timeout = stated if isinstance(stated, int | float) and 0 < stated < 60 else 1.0
    with limited(name, timeout + 5), suppress(Exception):
        async with asyncio.timeout(within(timeout)):
            answer: Any = check.probe(backend)
            outcome = (await answer) if inspect.isawaitable(answer) else f"{answer!r}, and no coroutine"
    return outcome
