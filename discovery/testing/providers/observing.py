"""The observations of a provider: what a provider yields, and how busy, restless and blocking a provider is."""

import asyncio
import inspect
import os
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from enum import Enum
from itertools import pairwise
from pathlib import Path
from typing import Any

from discovery.checks import Check, Outcome
from discovery.errors import describe
from discovery.model import Backend
from discovery.plugin import AnyProvider, Candidate, Inventory
from discovery.testing.clauses import BrokenError
from discovery.testing.consumers.gentle import Asked, declared_paths
from discovery.testing.providers.place import ProviderPlace, Watcher, requests_of
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
_TOLD = 200
"""Characters of an error that the clause of another part tells whole."""
BLOCKED = 0.9
"""Share of the looks that find a thread busy that blocks its event loop."""


class Part(Enum):
    """A part of the life of a provider."""

    ASKED = "health, metrics and details"
    FIRST = "the first inventory"
    EQUAL = "a twin finds the same"
    CHANGE = "a change, there and back"
    MOMENT = "a change while the twin rests at its first inventory"
    COURSE = "a time without a change, and the probes of checks"
    KILLED = "instances in a directory that another has left"
    AGAIN = "further discoveries of the same instance"
    BURST = "many changes in turn, of a provider that is quick"
    BLIND = "the sight taken away"
    TEARDOWN = "the end"


@dataclass
class Observed:
    """The observations of a life in world 0, world 1 and world 0 again, and of a time in which nothing changes."""

    failed: dict[Part, Exception] = field(default_factory=dict)
    passed: set[Part] = field(default_factory=set)
    end: Exception | None = None
    """The exception that ended the life before its last part."""
    asked: list[Asked] = field(default_factory=list)
    twins: list[tuple[Inventory, Inventory]] = field(default_factory=list)
    """Equal inventories of two instances in the same world."""
    can_be_blinded: bool = False
    left: dict[str, list[str]] = field(default_factory=dict)
    """The threads, children and descriptors that are there after the teardown, and were not before the setup."""
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

    @contextmanager
    def part(self, part: Part, *, ends: bool = False) -> Iterator[None]:
        """Note whether `part` fails within the block. With `ends` the exception is raised: the life is over."""
        try:
            yield
        except Exception as error:
            self.failed[part] = error
            if ends:
                raise
        else:
            self.passed.add(part)

    def require(self, *parts: Part) -> "Observed":
        """Return these observations. Raise the exception of a part that failed, or that an earlier one prevented."""
        for part in parts:
            if part in self.failed:
                raise self.failed[part]
            if part not in self.passed:
                raise self._prevented()
        return self

    def _prevented(self) -> Exception:
        """Return the error of what was not examined. A fault is told by its own clause; the others refer to it."""
        end = self.end or self.failed[Part.TEARDOWN]
        where = next((f", {each.value!r}," for each, error in self.failed.items() if error is end), "")
        told = (str(end) if isinstance(end, BrokenError) else describe(end))[:_TOLD]
        reason = f"not examined, since an earlier part of the provider's life{where} has failed: {told}"
        return BrokenError("the provider to come as far as this clause", reason)

    @property
    def candidates(self) -> list[Candidate]:
        """Every candidate of every inventory."""
        return [each for inventory in self.inventories for each in getattr(inventory, "candidates", ())]


async def quiet(seen: Watcher) -> None:
    """Wait a moment for further inventories of the same change, such as an inventory that is yielded too early."""
    count = -1
    while count != len(seen.inventories) and len(seen.inventories) < MOST_IDLE:
        count = len(seen.inventories)
        await asyncio.sleep(0.05)


@contextmanager
def _sampling() -> Iterator[list[str]]:
    """Sample the stack of this thread until the block ends.

    Yields the list of the sampled places in the code; a sample is "" if the event loop of the thread waits.
    """
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


def files_outside(place: ProviderPlace, provider: AnyProvider, written: Iterable[str]) -> list[str]:
    """Return the files among `written` that are there, and neither in the provider's directories nor in its options."""
    context = provider.context
    own = [context.run_dir, context.state_dir, *declared_paths(place.config)]
    paths = {Path(os.path.abspath(path)) for path in written}  # noqa: PTH100 - without following links
    return sorted(str(path) for path in paths if path.is_file() and not any(map(path.is_relative_to, own)))


async def idle(seen: Watcher, provider: AnyProvider, observed: Observed) -> None:
    """Watch a provider while nothing changes."""
    count, requests, begun = len(seen.inventories), requests_of(provider), time.monotonic()
    with _sampling() as samples:
        while time.monotonic() - begun < IDLE_SECONDS or len(samples) < 10:  # noqa: ASYNC110 - a thread wakes no loop
            await asyncio.sleep(0.01)
    observed.idle = len(seen.inventories) - count
    observed.requests = requests_of(provider) - requests
    observed.restless = [each for one, each in pairwise(seen.inventories[max(count - 1, 0) :]) if each != one][:3]
    observed.busy, observed.stack = _busy(samples)
    if seen.task.done():
        try:
            seen.raise_end()
        except Exception as error:  # noqa: BLE001 - examined by a clause
            observed.ended = describe(error)


async def look_at_all(observed: Observed) -> None:
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
