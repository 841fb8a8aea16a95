"""Clauses: the inventories of a provider, its checks, and its course."""

import math
import os
import re
import time
from collections.abc import Callable, Mapping
from typing import Any

from discovery.checks import Check, Outcome, Verdict
from discovery.model import Backend, State
from discovery.plugin import Candidate, Inventory
from discovery.testing.clauses import expect
from discovery.testing.providers.observing import BLOCKED, IDLE_SECONDS, MOST_IDLE, Observed
from discovery.testing.providers.place import copy_of
from discovery.validity import MAX_WEIGHT, validate

_MOST_REQUESTS = 5
"""Requests for another `discover` in half a second in which nothing changes."""
_EPOCH = re.compile(r"(?<![0-9A-Fa-f])\d{10}(?:\d{3})?(?![0-9A-Fa-f])")
"""Seconds or milliseconds since 1970."""


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
        for number in _EPOCH.findall(candidate.backend.id):
            is_now = abs(int(number[:10]) - time.time()) < 86_400
            expect(not is_now, "an id without the present time", candidate.backend.id)
        words = set(re.split(r"[^0-9A-Za-z]", candidate.backend.id))
        expect(words.isdisjoint(_hashes(candidate.backend)), "an id without a `hash`, which each process salts", words)


def _hashes(backend: Backend) -> set[str]:
    """Return the hashes of the texts of `backend`, as ids have them."""
    texts = {backend.service, backend.host, backend.address, *backend.labels.values(), *backend.id.split("-")}
    numbers = [hash(text) for text in texts]
    decimal = {f"{number}" for each in numbers for number in (abs(each), each % 10**6, each % 10**8, each % 2**32)}
    return {text for text in decimal if len(text) > 5} | {
        f"{each & mask:x}" for each in numbers for mask in (2**32 - 1, 2**64 - 1)
    }


def every_state_is_a_state(seen: Observed) -> None:
    """The core compares states by identity: text, even the right text, counts as another state."""
    for candidate in seen.candidates:
        state: object = candidate.backend.state
        expect(isinstance(state, State), "State.ACTIVE or State.DRAINING", f"{state!r} of {candidate.backend.key}")


def every_check_makes_sense(seen: Observed) -> None:
    """A check without a time runs without a pause, and the state of a check is lost if its probe is not equal later."""
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


def a_check_stays_equal_to_itself(seen: Observed) -> None:
    """The core keeps what it knows of a check by the check: a probe with another hash is another check."""
    expect(not seen.rehashed, "checks with the same hash before and after a run", seen.rehashed)


def no_probe_blocks(seen: Observed) -> None:
    """All checks of a provider run on one event loop: a probe that blocks there delays every other."""
    expect(not seen.blocking, "a probe that awaits, or asks on another thread", seen.blocking)


def every_probe_answers_with_an_outcome(seen: Observed) -> None:
    """The core registers a backend by the outcomes of its probes."""
    for outcome in seen.outcomes:
        expect(isinstance(outcome, Outcome), "an Outcome", f"a probe returned {outcome!r}")
        assert isinstance(outcome, Outcome)
        expect(isinstance(outcome.verdict, Verdict), "a Verdict", outcome)
        expect(isinstance(outcome.detail, str), "a detail that is text", outcome)
        expect(not outcome.detail or outcome.detail.isprintable(), "a detail of one line", outcome)
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


def nothing_differs_while_nothing_changes(seen: Observed) -> None:
    """Another inventory is checked, compared and logged again: a time or a count in it differs each time."""
    expect(not seen.restless, "equal inventories while nothing changes", seen.restless)


def no_discovery_asks_for_another(seen: Observed) -> None:
    """`request_discovery` ends the present `discover` and begins another: a `discover` that calls it begins forever."""
    expected = "request_discovery only when there is something to find"
    expect(seen.requests <= _MOST_REQUESTS, expected, f"{seen.requests} requests in {IDLE_SECONDS:g} s")
    expect(not all(seen.requests_when_begun), expected, "a request in each discover, in a world that does not change")


def files_are_in_the_directories_of_the_instance(seen: Observed) -> None:
    """Two instances, two daemons and an uninstallation know the run directory, the state directory and the options."""
    where = "files in the run directory, the state directory or a path of the configuration"
    expect(not seen.outside, where, seen.outside)


def the_configuration_is_left_alone(seen: Observed) -> None:
    """A reload compares the configuration with the new one."""
    before, after = seen.config
    expect(before == after, "an unchanged configuration", after)


def nothing_is_yielded_without_a_pause(seen: Observed) -> None:
    """An equal inventory costs little, and not nothing: a provider that never waits uses a whole processor."""
    most = f"at most {MOST_IDLE} inventories in {IDLE_SECONDS:g} s without a change"
    expect(seen.idle <= MOST_IDLE, most, f"{seen.idle} inventories")


def the_event_loop_is_left_free(seen: Observed) -> None:
    """The checks of the candidates run on the same event loop: a provider that sleeps there delays all of them."""
    waits = "a provider that awaits the next change (asyncio.sleep), or a plain function as discover"
    expect(seen.busy < BLOCKED, waits, f"the event loop was blocked in {seen.stack}")


def discover_goes_on(seen: Observed) -> None:
    """After the end of `discover`, or an exception, the core begins again after a pause, and reports a failure."""
    expect(not seen.ended, "discover to go on while nothing changes", seen.ended)


def the_process_stays_as_it_was(seen: Observed) -> None:
    """All plugins and the core share a single process: its working directory, umask and environment are common."""
    expect(not seen.changed, "the settings of the process as they were", seen.changed)


FINDINGS: tuple[Callable[[Observed], None], ...] = (
    an_inventory_is_complete_in_itself,
    every_backend_is_valid_and_has_a_key_of_its_own,
    an_id_outlives_the_process,
    every_state_is_a_state,
)
COURSES: tuple[Callable[[Observed], None], ...] = (
    an_inventory_does_not_change_later,
    nothing_is_withdrawn_for_a_moment,
    nothing_is_yielded_without_a_pause,
    nothing_differs_while_nothing_changes,
    no_discovery_asks_for_another,
    the_event_loop_is_left_free,
    discover_goes_on,
    the_process_stays_as_it_was,
    files_are_in_the_directories_of_the_instance,
    the_configuration_is_left_alone,
)
CHECKS: tuple[Callable[[Observed], None], ...] = (
    every_check_makes_sense,
    a_check_stays_equal_to_itself,
    no_probe_blocks,
    every_probe_answers_with_an_outcome,
)


def _keys(inventory: Inventory) -> set[str]:
    return {candidate.backend.key for candidate in inventory.candidates}
