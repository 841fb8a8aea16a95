"""The contract of providers finds every wrong provider. Each class is named after its fault."""

import asyncio
import os
import threading
import time
from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from sound_providers import Directory, DirectoryContract, Fine, Options
from wrong_plugins import faults, message, messages

from discovery import Backend, Candidate, Check, Context, Health, Inventory, Outcome
from discovery.testing import within

FOUND = "test_every_backend_is_valid_and_has_a_key_of_its_own"
CHECKED = "test_every_check_makes_sense_and_can_be_run"
CHANGE = "test_a_change_is_found_and_each_inventory_is_complete"
CLOSED = "test_a_discovery_may_be_closed_or_cancelled_at_any_time_and_begun_again"
BLIND = "test_what_cannot_be_seen_is_raised_and_never_less_is_found"
LEFT = "test_nothing_is_left_running"


class Eager(Directory):
    def __init__(self, config: Options, context: Context) -> None:
        super().__init__(config, context)
        Path("/proc/self/stat").read_text()


class Waiting(Directory):
    async def discover(self) -> AsyncGenerator[Inventory, None]:
        first = self.look()
        async for inventory in super().discover():
            if inventory != first:
                yield inventory


class Ending(Directory):
    async def discover(self) -> AsyncGenerator[Inventory, None]:
        yield self.look()


class Deaf(Directory):
    async def discover(self) -> AsyncGenerator[Inventory, None]:
        yield self.look()
        await asyncio.sleep(3600)


class Telling(Directory):
    """Yields what is new only."""

    async def discover(self) -> AsyncGenerator[Inventory, None]:
        known: frozenset[Candidate] = frozenset()
        async for inventory in super().discover():
            yield replace(inventory, candidates=tuple(each for each in inventory.candidates if each not in known))
            known |= frozenset(inventory.candidates)


class Growing(Directory):
    """Begins with less than there is."""

    async def discover(self) -> AsyncGenerator[Inventory, None]:
        yield Inventory()
        async for inventory in super().discover():
            yield inventory


class Dated(Directory):
    def look(self) -> Inventory:
        return replace(super().look(), problems={"now": str(time.monotonic())})


class ByIdentity:
    async def __call__(self, backend: Backend) -> Outcome:
        return Outcome()


class Checked(Directory):
    def look(self) -> Inventory:
        self.checks = (Check(ByIdentity()),)  # type: ignore[misc]
        return super().look()


class Unreadable(Directory):
    def look(self) -> Inventory:
        found = super().look()
        return replace(found, candidates=(*found.candidates, Candidate(Backend("web", "x", "0.0.0.0", 80))))


class Twice(Directory):
    def look(self) -> Inventory:
        found = super().look()
        return replace(found, candidates=found.candidates * 2)


class Restless(Directory):
    checks = (Check(Fine(), interval=0),)


@dataclass(frozen=True)
class Mute:
    async def __call__(self, backend: Backend) -> Any:
        return None


class Muted(Directory):
    checks = (Check(Mute()),)


class Poet(Directory):
    def look(self) -> Inventory:
        return replace(super().look(), problems={"file x": "one line\nand another"})


class Clinging(Directory):
    async def discover(self) -> AsyncGenerator[Inventory, None]:
        try:
            async for inventory in super().discover():
                yield inventory
        finally:
            yield Inventory()


class Once(Directory):
    begun = False

    async def discover(self) -> AsyncGenerator[Inventory, None]:
        assert not self.begun, "begun before"
        self.begun = True
        async for inventory in super().discover():
            yield inventory


class Optimist(Directory):
    def look(self) -> Inventory:
        try:
            return super().look()
        except OSError:
            return Inventory()


class Patient(Directory):
    """Waits, without a word, until it can see again."""

    async def discover(self) -> AsyncGenerator[Inventory, None]:
        seen = None
        while True:
            with suppress(OSError):
                if (now := self.look()) != seen:
                    seen = now
                    yield now
            await asyncio.sleep(0.01)


class Fragile(Directory):
    path: Path

    async def setup(self) -> None:
        self.path = self.config.directory

    async def teardown(self) -> None:
        assert self.path.exists()


class Sick(Directory):
    async def health(self) -> Health:
        return Health(ok=False, detail="a headache")


class Threaded(Directory):
    async def setup(self) -> None:
        threading.Thread(target=time.sleep, args=(within(5),), name="forgotten", daemon=True).start()


class Opening(Directory):
    async def setup(self) -> None:
        os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)


class Spawning(Directory):
    async def setup(self) -> None:
        self._child = await asyncio.create_subprocess_exec("sleep", str(within(5)))


class Tasking(Directory):
    async def setup(self) -> None:
        self._task = asyncio.create_task(asyncio.sleep(3600))


FAULTS = (
    (Eager, "test_making_one_touches_nothing", "/proc/self/stat"),
    (Waiting, "test_the_first_inventory_comes_by_itself", "the first inventory"),
    (Dated, "test_equal_worlds_give_equal_inventories", "two providers to find the same"),
    (Checked, "test_equal_worlds_give_equal_inventories", "two providers to find the same"),
    (Deaf, CHANGE, "a change to be found"),
    (Ending, CHANGE, "ended by itself"),
    (Telling, CHANGE, "to be found"),
    (Growing, CHANGE, "to be found"),
    (Unreadable, FOUND, "0.0.0.0"),
    (Twice, FOUND, "a key is given twice"),
    (Restless, CHECKED, "without a time"),
    (Muted, CHECKED, "a probe returned None"),
    (Poet, "test_problems_are_single_lines", "not one printable line"),
    (Clinging, CLOSED, "GeneratorExit"),
    (Once, CLOSED, "begun before"),
    (Optimist, BLIND, "discover to raise"),
    (Patient, BLIND, "discover to raise"),
    (Fragile, "test_tearing_down_is_safe_without_a_setup_and_after_one", "path"),
    (Sick, "test_health_can_be_asked_for_at_any_time", "a headache"),
    (Threaded, LEFT, "forgotten"),
    (Opening, LEFT, "/dev/null"),
    (Spawning, LEFT, "(sleep)"),
    (Tasking, LEFT, "no task after teardown"),
)


@faults(*FAULTS, most=4)
def test_a_wrong_provider_is_found(wrong: type[Any], test: str, clause: str) -> None:
    assert clause in message(DirectoryContract, test, provider=wrong, patience=1.0)


def test_a_fault_is_told_once_and_the_clauses_behind_it_are_not_examined() -> None:
    found = messages(DirectoryContract, provider=Telling, patience=1.0)
    (told,) = [each for each in found if "not examined" not in each]
    assert "a change is found and each inventory is complete" in told
    assert "found, and to be found: 'candidate web/" in told
    assert "nothing and Candidate" in told
    for each in found:
        assert (
            each == told or "'a change, there and back', has failed: expected the inventory of the same world" in each
        )


@pytest.mark.exhaustive
@faults(*FAULTS)
def test_the_whole_contract_finds_a_wrong_provider(wrong: type[Any], test: str, clause: str) -> None:
    found = messages(DirectoryContract, provider=wrong, patience=1.0)
    assert found
    assert all("breaks the clause" in each for each in found)
