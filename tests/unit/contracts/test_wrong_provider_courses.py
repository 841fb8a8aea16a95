"""The contract of providers finds faults of the end of a discovery, of answers, and of a shared process."""

import asyncio
import os
import threading
from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
from sound_providers import Directory, DirectoryContract
from wrong_plugins import faults, message, messages

from discovery import Backend, Check, Health, Inventory, Outcome, Sample, Validation

CHECKED = "test_every_check_makes_sense_and_can_be_run"
COURSE = "test_discover_runs_on_quietly"
CLOSED = "test_a_discovery_may_be_closed_or_cancelled_at_any_time_and_begun_again"
BLIND = "test_what_cannot_be_seen_is_raised_and_never_less_is_found"
FIRST = "test_the_first_inventory_comes_by_itself"
HEALTH = "test_health_can_be_asked_for_at_any_time"
VALIDATE = "test_validating_finds_no_fault_and_changes_nothing"
TORN = "test_tearing_down_is_safe_without_a_setup_and_after_one"


@dataclass(frozen=True)
class Stubborn:
    async def __call__(self, backend: Backend) -> Outcome:
        while True:
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(1)


class HasAProbeThatNeverEnds(Directory):
    checks = (Check(Stubborn(), timeout=0.1),)


class ReturnsOneInventory(Directory):
    async def discover(self) -> Inventory:  # type: ignore[override]
        return self.look()


class ReturnsAList(Directory):
    def discover(self) -> Any:
        return [self.look()]


class IgnoresACancellation(Directory):
    async def discover(self) -> AsyncGenerator[Inventory, None]:
        yield self.look()
        while True:
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(60)


class KeepsADescriptorOfEachDiscovery(Directory):
    kept: ClassVar[list[Any]] = []

    async def discover(self) -> AsyncGenerator[Inventory, None]:
        self.kept.append(os.open("/dev/null", os.O_RDONLY))
        async for inventory in super().discover():
            yield inventory


class KeepsATaskOfEachDiscovery(Directory):
    async def discover(self) -> AsyncGenerator[Inventory, None]:
        self.tasks = [*getattr(self, "tasks", []), asyncio.create_task(asyncio.sleep(3600))]
        async for inventory in super().discover():
            yield inventory

    async def teardown(self) -> None:
        for task in getattr(self, "tasks", []):
            task.cancel()


class CancelsItselfWhenBlind(Directory):
    def look(self) -> Inventory:
        try:
            return super().look()
        except OSError:
            raise asyncio.CancelledError from None


class TellsAProblemAndFindsLess(Directory):
    def look(self) -> Inventory:
        try:
            return super().look()
        except OSError as error:
            return Inventory(problems={"directory": str(error)})


class IsBlindForEver(Directory):
    failed = False

    def look(self) -> Inventory:
        if self.failed:
            raise RuntimeError("it has failed before")
        self.failed = True
        found = super().look()
        self.failed = False
        return found


class EndsWhenBlind(Directory):
    async def discover(self) -> AsyncGenerator[Inventory, None]:
        with suppress(OSError):
            async for inventory in super().discover():
                yield inventory


class ChangesTheDirectory(Directory):
    async def discover(self) -> AsyncGenerator[Inventory, None]:
        os.chdir(self.config.directory)
        async for inventory in super().discover():
            yield inventory


class ChangesTheEnvironment(Directory):
    async def discover(self) -> AsyncGenerator[Inventory, None]:
        os.environ["CONTRACT_OF_DIRECTORY"] = "1"
        async for inventory in super().discover():
            yield inventory


class AnswersHealthWithText(Directory):
    async def health(self) -> Any:
        return "well"


class TellsItsHealthInLines(Directory):
    async def health(self) -> Health:
        return Health(detail="one\ntwo")


class InspectsAPath(Directory):
    async def inspect(self) -> Any:
        return {"directory": self.config.directory}


class HasAMetricTwice(Directory):
    def metrics(self) -> Any:
        return [Sample("a", 1), Sample("a", 2)]


class ValidatesToAFault(Directory):
    async def validate(self) -> Validation:
        return Validation(faults=("not set up",))


class ValidatesToNothing(Directory):
    async def validate(self) -> Any:
        return None


class ValidatesByWriting(Directory):
    async def validate(self) -> Validation:
        self.context.run_dir.mkdir(parents=True)
        return Validation()


class CannotEndAfterAFailedSetup(Directory):
    async def setup(self) -> None:
        self.ready = False
        (self.context.run_dir / "state").write_text("")
        self.ready = True

    async def teardown(self) -> None:
        assert getattr(self, "ready", True), "half set up"


class HangsInSetup(Directory):
    async def setup(self) -> None:
        threading.Event().wait()


class HangsInTeardown(Directory):
    async def teardown(self) -> None:
        await asyncio.Event().wait()


FAULTS = (
    (ReturnsOneInventory, FIRST, "the first inventory comes by itself"),
    (ReturnsAList, FIRST, "the first inventory comes by itself"),
    (KeepsADescriptorOfEachDiscovery, CLOSED, "as many descriptors after each discover"),
    (KeepsATaskOfEachDiscovery, CLOSED, "as many tasks after each discover"),
    (CancelsItselfWhenBlind, BLIND, "what cannot be seen is raised"),
    (TellsAProblemAndFindsLess, BLIND, "discover to raise"),
    (IsBlindForEver, BLIND, "it has failed before"),
    (EndsWhenBlind, BLIND, "an exception that tells the reason"),
    (ChangesTheDirectory, COURSE, "the process stays as it was"),
    (ChangesTheEnvironment, COURSE, "the process stays as it was"),
    (AnswersHealthWithText, HEALTH, "health can be asked for at any time"),
    (TellsItsHealthInLines, HEALTH, "health can be asked for at any time"),
    (InspectsAPath, "test_metrics_and_details_can_be_read_at_any_time", "details are json"),
    (HasAMetricTwice, "test_metrics_and_details_can_be_read_at_any_time", "metrics have names labels and values"),
    (ValidatesToAFault, VALIDATE, "validating finds no fault"),
    (ValidatesToNothing, VALIDATE, "validating finds no fault"),
    (ValidatesByWriting, VALIDATE, "validating finds no fault"),
    (CannotEndAfterAFailedSetup, TORN, "half set up"),
)
HANGS = (
    (HasAProbeThatNeverEnds, CHECKED, "the probe"),
    (IgnoresACancellation, FIRST, "discover, after it was cancelled, has not returned"),
    (HangsInSetup, FIRST, "setup has not returned"),
    (HangsInTeardown, TORN, "teardown without a setup has not returned"),
)


@faults(*FAULTS)
def test_a_wrong_course_is_found(wrong: type[Any], test: str, clause: str) -> None:
    assert clause in message(DirectoryContract, test, provider=wrong, patience=1.0)


@faults(*HANGS, most=1)
def test_a_provider_that_hangs_is_found(
    wrong: type[Any], test: str, clause: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for limit in ("place.CALL_SECONDS", "place.STOP_SECONDS", "contract.CALL_SECONDS", "contract.STOP_SECONDS"):
        monkeypatch.setattr(f"discovery.testing.providers.{limit}", 1.0)
    assert clause in message(DirectoryContract, test, provider=wrong, patience=1.0)


@pytest.mark.exhaustive
@faults(*FAULTS, *HANGS)
def test_the_whole_contract_finds_a_wrong_course(wrong: type[Any], test: str, clause: str) -> None:
    found = messages(DirectoryContract, provider=wrong, patience=1.0)
    assert found
    assert all("breaks the clause" in each for each in found)
