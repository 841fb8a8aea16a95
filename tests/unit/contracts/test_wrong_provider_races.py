"""The contract of providers finds lost changes, probes that harm others, and what a restart does not bear."""

import asyncio
import os
import tempfile
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from sound_providers import Directory, DirectoryContract, Options
from wrong_plugins import faults, message, messages

from discovery import Backend, Check, Health, Inventory, Outcome, PluginConfig
from discovery.testing import within

MOMENT = "test_a_change_at_the_moment_of_an_inventory_is_found"
COURSE = "test_discover_runs_on_quietly"
CHECKED = "test_every_check_makes_sense_and_can_be_run"
FOUND = "test_every_backend_is_valid_and_has_a_key_of_its_own"
KILLED = "test_what_a_killed_daemon_has_left_keeps_no_instance_from_starting"
ADOPTED = "test_another_configuration_is_adopted_or_refused"


class ListensTooLate(Directory):
    """Listens for changes from after the inventory on, and does not look again."""

    async def discover(self) -> AsyncGenerator[Inventory, None]:
        while True:
            yield self.look()
            before = self.look()
            while self.look() == before:  # noqa: ASYNC110 - it looks at a directory
                await asyncio.sleep(0.01)


class ForgetsAWakeUp(Directory):
    """Clears the event of changes after the look, and not before."""

    async def discover(self) -> AsyncGenerator[Inventory, None]:
        changed, seen = asyncio.Event(), None
        watching = asyncio.create_task(self.watch(changed))
        try:
            while True:
                await changed.wait()
                if (now := self.look()) != seen:
                    seen = now
                    yield now
                await asyncio.sleep(0.05)
                changed.clear()
        finally:
            watching.cancel()

    async def watch(self, changed: asyncio.Event) -> None:
        before = None
        while True:
            if (now := sorted(self.config.directory.iterdir())) != before:
                before = now
                changed.set()
            await asyncio.sleep(0.005)


class AsksInEachDiscovery(Directory):
    async def discover(self) -> AsyncGenerator[Inventory, None]:
        self.context.request_discovery()
        async for inventory in super().discover():
            yield inventory


class AsksAgainAndAgain(Directory):
    async def discover(self) -> AsyncGenerator[Inventory, None]:
        asking = asyncio.create_task(self.ask())
        try:
            async for inventory in super().discover():
                yield inventory
        finally:
            asking.cancel()

    async def ask(self) -> None:
        while True:
            await asyncio.sleep(0.01)
            self.context.request_discovery()


class TellsWhichLookItWas(Directory):
    async def discover(self) -> AsyncGenerator[Inventory, None]:
        count = 0
        while True:
            count += 1
            yield replace(self.look(), skipped={"directory": "an even look" if count % 2 else "an odd look"})
            await asyncio.sleep(0.05)


@dataclass(frozen=True)
class Blocking:
    async def __call__(self, backend: Backend) -> Outcome:
        time.sleep(within(0.6))  # noqa: ASYNC251
        return Outcome()


class BlocksInAProbe(Directory):
    checks = (Check(Blocking()),)


@dataclass
class Counting:
    count: int = 0

    async def __call__(self, backend: Backend) -> Outcome:
        self.count += 1
        return Outcome()

    def __hash__(self) -> int:
        return self.count


class ChangesTheHashOfAProbe(Directory):
    checks = (Check(Counting()),)

    def look(self) -> Inventory:
        type(self).checks = (Check(Counting()),)
        return super().look()


@dataclass(frozen=True)
class Plain:
    def __call__(self, backend: Backend) -> Outcome:
        return Outcome()


class HasAPlainProbe(Directory):
    checks = (Check(Plain()),)


@dataclass(frozen=True)
class Wordy:
    async def __call__(self, backend: Backend) -> Outcome:
        return Outcome(detail="one\ntwo")


class TellsADetailOfTwoLines(Directory):
    checks = (Check(Wordy()),)


class NamesStatesByText(Directory):
    def backend(self, name: str, port: int) -> Backend:
        return replace(super().backend(name, port), state="active")  # type: ignore[arg-type]


class NamesItsStart(Directory):
    started = int(time.time())

    def backend(self, name: str, port: int) -> Backend:
        return replace(super().backend(name, port), id=f"{name}-{self.started}")


class NamesByHash(Directory):
    def backend(self, name: str, port: int) -> Backend:
        return replace(super().backend(name, port), id=f"{name}-{abs(hash(name))}")


class WritesElsewhere(Directory):
    async def discover(self) -> AsyncGenerator[Inventory, None]:
        Path(tempfile.gettempdir(), "contract-of-a-provider.json").write_text("{}")
        async for inventory in super().discover():
            yield inventory


class ChangesItsOptions(Directory):
    async def discover(self) -> AsyncGenerator[Inventory, None]:
        self.config.__dict__["directory"] = self.config.directory / "." / ".." / self.config.directory.name
        async for inventory in super().discover():
            yield inventory


class RefusesWhatIsLeft(Directory):
    async def setup(self) -> None:
        (self.context.run_dir / "lock").touch(exist_ok=False)

    async def teardown(self) -> None:
        (self.context.run_dir / "lock").unlink(missing_ok=True)


class AnswersNothingWhenReconfigured(Directory):
    async def reconfigure(self, config: Options) -> Any:
        self.config = config


class ServiceOptions(PluginConfig):
    directory: Path
    service: str = "web"


class AdoptsAndForgets(Directory):
    Config = ServiceOptions  # type: ignore[assignment]

    def backend(self, name: str, port: int) -> Backend:
        return replace(super().backend(name, port), service=self.config.service)  # type: ignore[attr-defined]

    async def reconfigure(self, config: Options) -> bool:
        return True


class BlocksInHealth(Directory):
    async def health(self) -> Health:
        time.sleep(within(2.2))  # noqa: ASYNC251
        return Health()


class LeaksWhenItsSetupFails(Directory):
    ready = False

    async def setup(self) -> None:
        self.descriptor = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        (self.context.run_dir / "state").write_text("")
        self.ready = True

    async def teardown(self) -> None:
        if self.ready:
            os.close(self.descriptor)


FAULTS = (
    (ListensTooLate, MOMENT, "a change at the moment of an inventory is found"),
    (ForgetsAWakeUp, MOMENT, "a change at the moment of an inventory is found"),
    (AsksInEachDiscovery, COURSE, "no discovery asks for another"),
    (AsksAgainAndAgain, COURSE, "no discovery asks for another"),
    (TellsWhichLookItWas, COURSE, "nothing differs while nothing changes"),
    (BlocksInAProbe, CHECKED, "no probe blocks"),
    (ChangesTheHashOfAProbe, CHECKED, "a check stays equal to itself"),
    (HasAPlainProbe, CHECKED, "and no coroutine"),
    (TellsADetailOfTwoLines, CHECKED, "a detail of one line"),
    (NamesStatesByText, FOUND, "every state is a state"),
    (NamesItsStart, FOUND, "an id without the present time"),
    (NamesByHash, FOUND, "an id without a `hash`"),
    (WritesElsewhere, COURSE, "files are in the directories of the instance"),
    (ChangesItsOptions, COURSE, "the configuration is left alone"),
    (RefusesWhatIsLeft, KILLED, "what a killed daemon has left"),
    (AnswersNothingWhenReconfigured, ADOPTED, "True or False from reconfigure"),
    (AdoptsAndForgets, ADOPTED, "another configuration is adopted or refused"),
    (BlocksInHealth, "test_health_can_be_asked_for_at_any_time", "health is told quickly"),
    (LeaksWhenItsSetupFails, "test_tearing_down_is_safe_without_a_setup_and_after_one", "each setup that has failed"),
)


@faults(*FAULTS, most=4)
def test_a_race_of_a_provider_is_found(wrong: type[Any], test: str, clause: str) -> None:
    assert clause in message(DirectoryContract, test, provider=wrong, patience=1.0)


@pytest.mark.exhaustive
@faults(*FAULTS)
def test_the_whole_contract_finds_a_race_of_a_provider(wrong: type[Any], test: str, clause: str) -> None:
    found = messages(DirectoryContract, provider=wrong, patience=1.0)
    assert found
    assert all("breaks the clause" in each for each in found)
