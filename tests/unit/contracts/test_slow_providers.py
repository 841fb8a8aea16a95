"""The contract finds the faults of providers that are slow, too: no clause is left out because of the time."""

import os
import time
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
from sound_providers import Directory, DirectoryContract, Options
from wrong_plugins import faults, message

from discovery import Backend, Inventory


class Slow(Directory):
    """Blocks before each inventory."""

    def discover(self) -> Iterator[Inventory]:  # type: ignore[override]  # an author chooses once for a class
        while True:
            time.sleep(0.6)
            yield self.look()


class TakesNoteAfterTheInventory(Slow):
    def discover(self) -> Iterator[Inventory]:  # type: ignore[override]
        told = self.look()
        yield told
        known = self.look()
        while True:
            time.sleep(0.6)
            if (now := self.look()) != known:
                known = told = now
            yield told


class TakesNoteInItsFirstDiscovery(Slow):
    """Loses a change at the moment of the first inventory of an instance, and never later."""

    known: Inventory | None = None

    def discover(self) -> Iterator[Inventory]:  # type: ignore[override]
        told = self.look()
        yield told
        self.known = self.known or self.look()
        while True:
            time.sleep(0.6)
            if (now := self.look()) != self.known:
                self.known = told = now
            yield told


class KeepsADescriptorOfEachDiscovery(Slow):
    kept: ClassVar[list[int]] = []

    def discover(self) -> Iterator[Inventory]:  # type: ignore[override]
        self.kept.append(os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC))
        yield from super().discover()


class RefusesWhatIsLeft(Slow):
    async def setup(self) -> None:
        (self.context.run_dir / "lock").touch(exist_ok=False)

    async def teardown(self) -> None:
        (self.context.run_dir / "lock").unlink(missing_ok=True)


class NamesByInstance(Slow):
    def backend(self, name: str, port: int) -> Backend:
        return Backend("web", f"{name}-{id(self):x}", "127.0.0.1", port)


class BeginsOnce(Slow):
    begun = False

    def discover(self) -> Iterator[Inventory]:  # type: ignore[override]
        assert not self.begun, "begun before"
        self.begun = True
        yield from super().discover()


class IsBlindForEver(Slow):
    is_blind = False

    def look(self) -> Inventory:
        assert not self.is_blind, "it has failed before"
        try:
            return super().look()
        except OSError:
            self.is_blind = True
            raise


class AdoptsNothing(Slow):
    async def reconfigure(self, config: Options) -> Any:
        self.config = config


FAULTS = (
    (TakesNoteAfterTheInventory, "test_a_change_at_the_moment_of_an_inventory_is_found", "to be found"),
    (TakesNoteInItsFirstDiscovery, "test_a_change_at_the_moment_of_an_inventory_is_found", "to be found"),
    (KeepsADescriptorOfEachDiscovery, "test_nothing_is_left_running", "/dev/null"),
    (RefusesWhatIsLeft, "test_what_a_killed_daemon_has_left_keeps_no_instance_from_starting", "lock"),
    (NamesByInstance, "test_equal_worlds_give_equal_inventories", "two providers to find the same"),
    (BeginsOnce, "test_a_discovery_may_be_closed_or_cancelled_at_any_time_and_begun_again", "begun before"),
    (IsBlindForEver, "test_what_cannot_be_seen_is_raised_and_never_less_is_found", "it has failed before"),
    (AdoptsNothing, "test_another_configuration_is_adopted_or_refused", "True or False from reconfigure"),
)


@pytest.mark.exhaustive
@faults(*FAULTS)
def test_a_fault_of_a_slow_provider_is_found(wrong: type[Any], test: str, clause: str) -> None:
    assert clause in message(DirectoryContract, test, provider=wrong, patience=2.0)
