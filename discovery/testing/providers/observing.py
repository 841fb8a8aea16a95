"""A life of a provider: what a provider yields when its world changes and changes back."""

import asyncio
import math
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from discovery.checks import Check, Outcome, Verdict
from discovery.errors import describe
from discovery.model import Backend
from discovery.plugin import AnyProvider, Candidate, Inventory
from discovery.testing import process
from discovery.testing.clauses import expect
from discovery.testing.providers.place import ProviderPlace, Watcher, copy_of
from discovery.testing.recorder import Recorder
from discovery.testing.support import within
from discovery.testing.watching import limited
from discovery.validity import MAX_WEIGHT, validate

_IDLE_SECONDS = 0.5
"""Seconds for which a provider is watched while nothing changes."""
_MOST_IDLE = 100
"""Inventories in these seconds: a provider may look every few milliseconds, and not as fast as it can."""
_SAMPLE_SECONDS = 0.02
"""Seconds between two looks at the stack of the provider's thread."""
_BLOCKED = 0.9
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
    changed: dict[str, object] = field(default_factory=dict)
    written: list[str] = field(default_factory=list)
    outcomes: list[object] = field(default_factory=list)

    @property
    def candidates(self) -> list[Candidate]:
        """Every candidate of every inventory."""
        return [each for inventory in self.inventories for each in getattr(inventory, "candidates", ())]


def observe(place: ProviderPlace) -> Observed:
    """Run a provider through the worlds of `place`, and return what was seen."""
    observed, settings = Observed(), process.settings()

    async def script(provider: AnyProvider) -> None:
        with Recorder() as recorder:
            async with place._watching(provider) as seen:  # noqa: SLF001 - its own place
                await _live(place, seen, observed)
            observed.written = recorder.writes
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
    await _idle(seen, observed)


async def _quiet(seen: Watcher) -> None:
    """Wait a moment for further inventories of the same change, such as an inventory that is yielded too early."""
    count = -1
    while count != len(seen.inventories) and len(seen.inventories) < _MOST_IDLE:
        count = len(seen.inventories)
        await asyncio.sleep(0.05)


async def _idle(seen: Watcher, observed: Observed) -> None:
    count, thread, ended = len(seen.inventories), threading.get_ident(), threading.Event()
    samples: list[str] = []

    def sample() -> None:
        while not ended.wait(_SAMPLE_SECONDS):
            frame = sys._current_frames().get(thread)  # noqa: SLF001 - the one way to the stack of another thread
            code = frame.f_code if frame else None
            at = f"{code.co_name} in {code.co_filename}:{frame.f_lineno}" if code and frame else ""
            samples.append("" if code and code.co_filename.endswith("selectors.py") else at)

    sampler = threading.Thread(target=sample, daemon=True, name="contract samples")
    sampler.start()
    begun = time.monotonic()
    while time.monotonic() - begun < _IDLE_SECONDS or len(samples) < 10:  # noqa: ASYNC110 - a thread wakes no loop
        await asyncio.sleep(0.01)
    ended.set()
    observed.idle = len(seen.inventories) - count
    busy = [each for each in samples if each]
    observed.busy, observed.stack = len(busy) / len(samples), busy[-1] if busy else ""
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
                observed.outcomes.append(await _look(check, candidate.backend))


async def _look(check: Check, backend: Backend) -> object:
    """Run a probe, and return the outcome. A probe may fail, which is a failing outcome."""
    outcome: object = Outcome()
    name = f"the probe {check.probe!r}, with a timeout of {check.timeout:g} s,"
    stated: Any = check.timeout
    timeout = stated if isinstance(stated, int | float) and 0 < stated < 60 else 1.0
    with limited(name, timeout + 5), suppress(Exception):
        async with asyncio.timeout(within(timeout)):
            outcome = await check.probe(backend)
    return outcome


def an_inventory_is_complete_in_itself(seen: Observed) -> None:
    """The core keeps the inventory, and compares the next inventory with the inventory that was kept."""
    for each in seen.inventories:
        for candidate in each.candidates:
            expect(isinstance(candidate, Candidate), "a Candidate", candidate)
            expect(isinstance(candidate.backend, Backend), "a Backend in a candidate", candidate.backend)
            expect(isinstance(candidate.checks, tuple), "checks as a tuple", candidate.checks)
        for told in (each.problems, each.skipped):
            expect(isinstance(told, Mapping), "problems and skipped things by name", told)


def an_inventory_does_not_change_later(seen: Observed) -> None:
    """The core compares each inventory with its predecessor: an inventory is always equal to itself."""
    for inventory, copy in zip(seen.inventories, seen.copies, strict=True):
        expect(copy_of(inventory) == copy, "an inventory that stays as it was yielded", f"{copy}, then {inventory}")


def every_backend_is_valid_and_has_a_key_of_its_own(seen: Observed) -> None:
    """The core leaves out a backend that no reader would accept, and all that claim the same key."""
    expect(seen.candidates, "a candidate in one of the worlds", "none")
    for inventory in seen.inventories:
        for candidate in inventory.candidates:
            validate(candidate.backend)
        keys = [candidate.backend.key for candidate in inventory.candidates]
        expect(len(set(keys)) == len(keys), "a key of its own for each backend", f"a key is given twice: {keys}")


def an_id_outlives_the_process(seen: Observed) -> None:
    """A daemon that starts again takes its records over by their keys; other keys are other backends for a moment."""
    pid = re.compile(rf"(?<!\d){os.getpid()}(?!\d)")
    for candidate in seen.candidates:
        expect(not pid.search(candidate.backend.id), "an id without the process id", candidate.backend.id)


def every_check_makes_sense(seen: Observed) -> None:
    """A check without a time runs without a pause, and probes that are not equal begin anew with each inventory."""
    for candidate in seen.candidates:
        for check in candidate.checks:
            expect(isinstance(check, Check), "a Check", check)
            for name in ("interval", "timeout"):
                seconds = getattr(check, name)
                number = isinstance(seconds, int | float) and math.isfinite(seconds) and seconds > 0
                expect(number, f"a positive {name}", f"without a time: {check}")
            numbers: list[Any] = [check.rise, check.fall]
            counts = all(isinstance(each, int) and each >= 1 for each in numbers)
            expect(counts, "rise and fall of at least 1", f"without a count: {check}")
            expect(check.on_failure in ("withdraw", "drain"), "on_failure as withdraw or drain", check.on_failure)
            expect(hash(check) == hash(check), "a hash", check)


def every_probe_answers_with_an_outcome(seen: Observed) -> None:
    """The core registers a backend by the outcomes of its probes."""
    for outcome in seen.outcomes:
        expect(isinstance(outcome, Outcome), "an Outcome", f"a probe returned {outcome!r}")
        assert isinstance(outcome, Outcome)
        expect(isinstance(outcome.verdict, Verdict), "a Verdict", outcome)
        expect(isinstance(outcome.detail, str), "a detail that is text", outcome)
        weight: Any = outcome.weight
        valid = weight is None or (isinstance(weight, int) and 0 <= weight <= MAX_WEIGHT)
        expect(valid, f"a weight from 0 to {MAX_WEIGHT}, or None", outcome)


def problems_are_single_lines(seen: Observed) -> None:
    """Problems and skipped things are rows of tables and lines of a log, by a name that the user knows."""
    told = [pair for each in seen.inventories for pair in (*each.problems.items(), *each.skipped.items())]
    texts: list[Any] = [text for pair in told for text in pair]
    for text in texts:
        expect(isinstance(text, str) and text, "a name and a reason of a problem, or of something skipped", text)
        expect(text.isprintable(), "one printable line", f"not one printable line: {text!r}")


def nothing_is_withdrawn_for_a_moment(seen: Observed) -> None:
    """The core withdraws what an inventory lacks: a backend that is missing for a moment loses its clients."""
    if len(seen.phases) < 3:
        return
    worlds = [_keys(seen.inventories[number - 1]) for number in seen.phases]
    always = worlds[0] & worlds[1]
    for inventory in seen.inventories[seen.phases[0] - 1 : seen.phases[-1]]:
        missing = always - _keys(inventory)
        expect(not missing, "what is there in both worlds in every inventory", f"without {sorted(missing)}")


def nothing_is_yielded_without_a_pause(seen: Observed) -> None:
    """An equal inventory costs little, and not nothing: a provider that never waits uses a whole processor."""
    most = f"at most {_MOST_IDLE} inventories in {_IDLE_SECONDS:g} s without a change"
    expect(seen.idle <= _MOST_IDLE, most, f"{seen.idle} inventories")


def the_event_loop_is_left_free(seen: Observed) -> None:
    """The checks of the candidates run on the same event loop: a provider that sleeps there delays all of them."""
    waits = "a provider that awaits the next change (asyncio.sleep), or a plain function as discover"
    expect(seen.busy < _BLOCKED, waits, f"the event loop was blocked in {seen.stack}")


def discover_goes_on(seen: Observed) -> None:
    """After the end of `discover`, or an exception, the core begins again, ever more slowly, and tells a failure."""
    expect(not seen.ended, "discover to go on while nothing changes", seen.ended)


def the_process_stays_as_it_was(seen: Observed) -> None:
    """All plugins and the core share a single process: its working directory, umask and environment are common."""
    expect(not seen.changed, "the settings of the process as they were", seen.changed)


FINDINGS: tuple[Callable[[Observed], None], ...] = (
    an_inventory_is_complete_in_itself,
    every_backend_is_valid_and_has_a_key_of_its_own,
    an_id_outlives_the_process,
)
COURSES: tuple[Callable[[Observed], None], ...] = (
    an_inventory_does_not_change_later,
    nothing_is_withdrawn_for_a_moment,
    nothing_is_yielded_without_a_pause,
    the_event_loop_is_left_free,
    discover_goes_on,
    the_process_stays_as_it_was,
)
CHECKS: tuple[Callable[[Observed], None], ...] = (
    every_check_makes_sense,
    every_probe_answers_with_an_outcome,
)


def _keys(inventory: Inventory) -> set[str]:
    return {candidate.backend.key for candidate in inventory.candidates}
