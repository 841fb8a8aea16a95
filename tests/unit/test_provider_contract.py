"""The provider contract accepts a sound provider, and every way to be unsound fails one of its tests."""

import asyncio
import os
import tempfile
import threading
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from discovery import Backend, Context, Health, PluginConfig
from discovery.checks import Check, Outcome
from discovery.plugin import AnyProvider, Candidate, Inventory, Provider
from discovery.testing import ProviderContract, within


class Options(PluginConfig):
    directory: Path


@dataclass(frozen=True)
class Fine:
    """A probe that passes."""

    async def __call__(self, backend: Backend) -> Outcome:
        return Outcome()


class Directory(Provider[Options]):
    """Finds a backend for each file in a directory: `NAME` with its port in it."""

    Config = Options
    checks: ClassVar[tuple[Check, ...]] = (Check(Fine()),)

    def look(self) -> Inventory:
        candidates, problems = [], {}
        for path in sorted(self.config.directory.iterdir()):
            try:
                text = path.read_text()
            except FileNotFoundError:
                return self.look()  # the file alone is gone, or else this raises
            if text.isdigit():
                candidates.append(Candidate(Backend("web", path.name, "127.0.0.1", int(text)), self.checks))
            else:
                problems[f"file {path.name}"] = f"{text!r} is no port"
        return Inventory(tuple(candidates), problems)

    async def discover(self) -> AsyncGenerator[Inventory, None]:
        seen = None
        while True:
            if (now := self.look()) != seen:
                seen = now
                yield now
            await asyncio.sleep(0.01)


class Contract(ProviderContract):
    provider = Directory
    patience = 5.0

    def setup_method(self, method: object) -> None:
        self._temporary = tempfile.TemporaryDirectory()
        self.directory = Path(self._temporary.name) / "found"
        self.directory.mkdir()
        self.config = {"directory": self.directory}

    def teardown_method(self, method: object) -> None:
        self._temporary.cleanup()

    def arrange(self, world: int) -> None:
        for name, text in (("a", "80"), ("b", "81"), ("c", "no port")) if world == 0 else (("b", "82"),):
            made = self.directory.parent / name
            made.write_text(text)
            made.rename(self.directory / name)
        if world == 1:
            (self.directory / "a").unlink(missing_ok=True)

    def blind(self) -> AbstractContextManager[None]:
        @contextmanager
        def away() -> Iterator[None]:
            self.directory.rename(self.directory.parent / "away")
            yield
            (self.directory.parent / "away").rename(self.directory)

        return away()


class TestContract(Contract):
    pass


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


@pytest.mark.parametrize(
    ("unsound", "test", "why"),
    [
        (Eager, "test_making_one_touches_nothing", "/proc/self/stat"),
        (Waiting, "test_the_first_inventory_comes_by_itself", "the first inventory"),
        (Dated, "test_equal_worlds_give_equal_inventories", "two providers to find the same"),
        (Checked, "test_equal_worlds_give_equal_inventories", "two providers to find the same"),
        (Deaf, "test_a_change_is_found_and_each_inventory_is_complete", "a change to be found"),
        (Ending, "test_a_change_is_found_and_each_inventory_is_complete", "ended by itself"),
        (Telling, "test_a_change_is_found_and_each_inventory_is_complete", "to be found"),
        (Growing, "test_a_change_is_found_and_each_inventory_is_complete", "to be found"),
        (Unreadable, "test_every_backend_is_valid_and_has_a_key_of_its_own", "0.0.0.0"),
        (Twice, "test_every_backend_is_valid_and_has_a_key_of_its_own", "a key is given twice"),
        (Restless, "test_every_check_makes_sense_and_can_be_run", "without a time"),
        (Muted, "test_every_check_makes_sense_and_can_be_run", "a probe returned None"),
        (Poet, "test_problems_are_single_lines", "not one printable line"),
        (Clinging, "test_a_discovery_may_be_closed_or_cancelled_at_any_time_and_begun_again", "GeneratorExit"),
        (Once, "test_a_discovery_may_be_closed_or_cancelled_at_any_time_and_begun_again", "begun before"),
        (Optimist, "test_what_cannot_be_seen_is_raised_and_never_less_is_found", "discover to raise"),
        (Patient, "test_what_cannot_be_seen_is_raised_and_never_less_is_found", "discover to raise"),
        (Fragile, "test_tearing_down_is_safe_without_a_setup_and_after_one", "path"),
        (Sick, "test_health_can_be_asked_for_at_any_time", "a headache"),
        (Threaded, "test_nothing_is_left_running", "forgotten"),
        (Opening, "test_nothing_is_left_running", "left behind: .*/dev/null"),
        (Spawning, "test_nothing_is_left_running", r"left behind: .*'\d+'"),
        (Tasking, "test_nothing_is_left_running", "tasks to end"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_an_unsound_provider_is_found(unsound: type[AnyProvider], test: str, why: str) -> None:
    contract = type("Unsound", (Contract,), {"provider": unsound, "patience": 1.0})()
    contract.setup_method(None)
    try:
        with pytest.raises(Exception, match=why):
            getattr(contract, test)()
    finally:
        contract.teardown_method(None)
