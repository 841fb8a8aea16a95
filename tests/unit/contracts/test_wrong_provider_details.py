"""The contract of providers finds faults of options, inventories and checks."""

import asyncio
import os
import threading
import time
import uuid
from collections.abc import AsyncGenerator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import ConfigDict
from sound_providers import Directory, DirectoryContract, Fine, Options, YieldsEachLook
from wrong_plugins import faults, message, messages

from discovery import Backend, Check, Context, Inventory, Outcome, PluginConfig
from discovery.testing import within

MADE = "test_making_one_touches_nothing"
OPTIONS = "test_the_options_are_strict"
EQUAL = "test_equal_worlds_give_equal_inventories"
FOUND = "test_every_backend_is_valid_and_has_a_key_of_its_own"
CHECKED = "test_every_check_makes_sense_and_can_be_run"
COURSE = "test_discover_runs_on_quietly"
FIRST = "test_the_first_inventory_comes_by_itself"


class StartsAThreadWhenMade(Directory):
    def __init__(self, config: Options, context: Context) -> None:
        super().__init__(config, context)
        threading.Thread(target=time.sleep, args=(within(3),), daemon=True).start()


class LooseOptions(PluginConfig):
    model_config = ConfigDict(extra="allow")
    directory: Path


class IgnoresUnknownOptions(Directory):
    Config = LooseOptions  # type: ignore[assignment]


class ThawedOptions(PluginConfig):
    model_config = ConfigDict(frozen=False)
    directory: Path


class HasOptionsThatChange(Directory):
    Config = ThawedOptions  # type: ignore[assignment]


class YieldsAList(Directory):
    async def discover(self) -> AsyncGenerator[Any, None]:
        async for inventory in super().discover():
            yield [*inventory.candidates]


class YieldsBackends(Directory):
    def look(self) -> Inventory:
        found = super().look()
        return replace(found, candidates=tuple(each.backend for each in found.candidates))  # type: ignore[misc]


class YieldsAGenerator(Directory):
    async def discover(self) -> AsyncGenerator[Inventory, None]:
        async for inventory in super().discover():
            yield replace(inventory, candidates=(each for each in inventory.candidates))  # type: ignore[arg-type]


class ChangesAnInventoryLater(Directory):
    async def discover(self) -> AsyncGenerator[Inventory, None]:
        problems: dict[str, str] = {}
        async for inventory in super().discover():
            problems.clear()
            problems.update(inventory.problems)
            problems["count"] = str(len(inventory.candidates))
            yield replace(inventory, problems=problems)


class YieldsNothingBeforeEachChange(Directory):
    async def discover(self) -> AsyncGenerator[Inventory, None]:
        first = True
        async for inventory in super().discover():
            if not first:
                yield Inventory()
            first = False
            yield inventory


class NeverPauses(Directory):
    async def discover(self) -> AsyncGenerator[Inventory, None]:
        while True:
            yield self.look()


class YieldsAsOftenAsItCan(YieldsEachLook):
    pause = 0.0


class SleepsOnTheLoop(Directory):
    async def discover(self) -> AsyncGenerator[Inventory, None]:
        seen = None
        while True:
            if (now := self.look()) != seen:
                seen = now
                yield now
            time.sleep(0.2)  # noqa: ASYNC251
            await asyncio.sleep(0)


class EndsWhenNothingChanges(Directory):
    async def discover(self) -> AsyncGenerator[Inventory, None]:
        quiet, seen = 0, None
        while quiet < 5:  # a busy machine takes longer than 0.02 s for each
            quiet += 1
            if (now := self.look()) != seen:
                seen, quiet = now, 0
                yield now
            await asyncio.sleep(0.02)


class RaisesWhenNothingChanges(EndsWhenNothingChanges):
    async def discover(self) -> AsyncGenerator[Inventory, None]:
        async for inventory in super().discover():
            yield inventory
        raise TimeoutError("nothing has changed")


class NamesItsProcess(Directory):
    def backend(self, name: str, port: int) -> Backend:
        return replace(super().backend(name, port), id=f"{name}-{os.getpid()}")


class NamesAtRandom(Directory):
    async def setup(self) -> None:
        self.mark = uuid.uuid4().hex

    def backend(self, name: str, port: int) -> Backend:
        return replace(super().backend(name, port), id=f"{name}-{self.mark}")


class HasAnIdWithASlash(Directory):
    def backend(self, name: str, port: int) -> Backend:
        return replace(super().backend(name, port), id=f"x/{name}")


class HasNoPort(Directory):
    def backend(self, name: str, port: int) -> Backend:
        return replace(super().backend(name, port), port=0)


class HasAPortOutOfRange(Directory):
    def backend(self, name: str, port: int) -> Backend:
        return replace(super().backend(name, port), port=70_000 + port)


class HasANegativeWeight(Directory):
    def backend(self, name: str, port: int) -> Backend:
        return replace(super().backend(name, port), weight=-1)


class HasALabelOfTwoLines(Directory):
    def backend(self, name: str, port: int) -> Backend:
        return replace(super().backend(name, port), labels={"of": "one\ntwo"})


class HasALabelThatIsTooLong(Directory):
    def backend(self, name: str, port: int) -> Backend:
        return replace(super().backend(name, port), labels={"of": "x" * 2000})


class HasAServiceWithASpace(Directory):
    def backend(self, name: str, port: int) -> Backend:
        return replace(super().backend(name, port), service="the web")


class HasAUrlAsHost(Directory):
    def backend(self, name: str, port: int) -> Backend:
        return replace(super().backend(name, port), host="http://127.0.0.1")


class FailsForAnInfiniteTime(Directory):
    checks = (Check(Fine(), timeout=float("inf")),)


class NeedsNoSuccess(Directory):
    checks = (Check(Fine(), rise=0),)


class FailsToSomethingElse(Directory):
    checks = (Check(Fine(), on_failure="remove"),)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Heavy:
    async def __call__(self, backend: Backend) -> Outcome:
        return Outcome(weight=300)


class WeighsTooMuch(Directory):
    checks = (Check(Heavy()),)


@dataclass(frozen=True)
class Wordy:
    async def __call__(self, backend: Backend) -> Outcome:
        return Outcome("up")  # type: ignore[arg-type]


class TellsAVerdictOfItsOwn(Directory):
    checks = (Check(Wordy()),)


FAULTS = (
    (StartsAThreadWhenMade, MADE, "making one touches nothing"),
    (IgnoresUnknownOptions, OPTIONS, "unknown options are refused"),
    (HasOptionsThatChange, OPTIONS, "the configuration is frozen"),
    (YieldsAList, FIRST, "an Inventory from discover"),
    (YieldsBackends, FOUND, "an inventory is complete in itself"),
    (YieldsAGenerator, FOUND, "candidates that can be read twice"),
    (ChangesAnInventoryLater, COURSE, "an inventory does not change later"),
    (YieldsNothingBeforeEachChange, COURSE, "nothing is withdrawn for a moment"),
    (NeverPauses, COURSE, "nothing is yielded without a pause"),
    (YieldsAsOftenAsItCan, COURSE, "nothing is yielded without a pause"),
    (SleepsOnTheLoop, COURSE, "the event loop is left free"),
    (EndsWhenNothingChanges, COURSE, "discover goes on"),
    (RaisesWhenNothingChanges, COURSE, "discover goes on"),
    (NamesItsProcess, FOUND, "an id outlives the process"),
    (NamesAtRandom, EQUAL, "equal worlds give equal inventories"),
    (HasAnIdWithASlash, FOUND, "every backend is valid"),
    (HasNoPort, FOUND, "every backend is valid"),
    (HasAPortOutOfRange, FOUND, "every backend is valid"),
    (HasANegativeWeight, FOUND, "every backend is valid"),
    (HasALabelOfTwoLines, FOUND, "every backend is valid"),
    (HasALabelThatIsTooLong, FOUND, "every backend is valid"),
    (HasAServiceWithASpace, FOUND, "every backend is valid"),
    (HasAUrlAsHost, FOUND, "every backend is valid"),
    (FailsForAnInfiniteTime, CHECKED, "every check makes sense"),
    (NeedsNoSuccess, CHECKED, "every check makes sense"),
    (FailsToSomethingElse, CHECKED, "every check makes sense"),
    (WeighsTooMuch, CHECKED, "every probe answers with an outcome"),
    (TellsAVerdictOfItsOwn, CHECKED, "every probe answers with an outcome"),
)


@faults(*FAULTS)
def test_a_fault_of_a_provider_is_found(wrong: type[Any], test: str, clause: str) -> None:
    assert clause in message(DirectoryContract, test, provider=wrong, patience=1.0)


@pytest.mark.exhaustive
@faults(*FAULTS)
def test_the_whole_contract_finds_a_fault_of_a_provider(wrong: type[Any], test: str, clause: str) -> None:
    found = messages(DirectoryContract, provider=wrong, patience=1.0)
    assert found
    assert all("breaks the clause" in each for each in found)
