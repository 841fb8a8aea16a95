"""The contract finds the faults of consumers that are very slow, too, of which it applies few states."""

import asyncio
import json
from contextlib import suppress
from typing import Any, ClassVar

import pytest
from sound_consumers import Options, Table, TableContract
from wrong_plugins import faults, message

from discovery import Update
from discovery.toolkit import write_atomically


class Slow(Table):
    """Takes its time with every apply."""

    async def apply(self, update: Update) -> None:
        await asyncio.sleep(0.5)
        await super().apply(update)


class CountsApplies(Slow):
    def text(self, update: Update) -> str:
        return f"{super().text(update)}// {self.applies}\n"


class ForgetsNothing(Slow):
    known: ClassVar[set[str]] = set()

    def text(self, update: Update) -> str:
        self.known.update(each.key for each in update.snapshot.backends())
        return json.dumps(sorted(self.known))


class HidesFailures(Slow):
    async def apply(self, update: Update) -> None:
        with suppress(OSError):
            await super().apply(update)


class TakesAFailureForDone(Slow):
    written: str | None = None

    def write(self, text: str) -> None:
        if text != self.written:
            self.written = text
            super().write(text)


class HidesItsCancellation(Slow):
    async def apply(self, update: Update) -> None:
        with suppress(asyncio.CancelledError):
            await super().apply(update)


class TakesACancelledApplyForDone(Slow):
    revision = 0

    async def apply(self, update: Update) -> None:
        if self.revision == update.snapshot.revision and update.previous is not None:
            return
        self.revision = update.snapshot.revision
        try:
            await super().apply(update)
        except OSError:
            self.revision = 0
            raise


class SharesItsTexts(Slow):
    """Puts the text of the latest apply of any instance into every file."""

    made: ClassVar[list[Table]] = []

    async def setup(self) -> None:
        self.made.append(self)

    def write(self, text: str) -> None:
        for each in self.made:
            if each.path.parent.is_dir():
                write_atomically(each.path, text.encode(), durable=False)


class KeepsWhatIsThere(Slow):
    """Leaves the file of an instance before as it is at its first apply."""

    def write(self, text: str) -> None:
        if self.applies or not self.path.exists():
            super().write(text)


class BeginsEmpty(Slow):
    async def setup(self) -> None:
        self.path.unlink(missing_ok=True)


class AdoptsNothing(Slow):
    async def reconfigure(self, config: Options) -> bool:
        return True


WAY = "test_the_way_to_a_state_does_not_matter"
FAILED = "test_an_apply_after_a_failed_one_sets_everything_right"
CANCELLED = "test_an_apply_can_be_cancelled"
RESTART = "test_a_restart_takes_over_what_is_there"

FAULTS = (
    (CountsApplies, "test_applying_twice_is_applying_once", "the effect of the first apply"),
    (ForgetsNothing, WAY, "the way to a state does not matter"),
    (HidesFailures, FAILED, "a failed apply raises"),
    (TakesAFailureForDone, FAILED, "an apply after a failed one sets everything right"),
    (HidesItsCancellation, CANCELLED, "an apply can be cancelled"),
    (TakesACancelledApplyForDone, CANCELLED, "an apply after a cancelled one is right"),
    (SharesItsTexts, "test_two_instances_do_not_touch_each_other", "two instances do not touch each other"),
    (KeepsWhatIsThere, RESTART, "a restart takes over what is there"),
    (BeginsEmpty, RESTART, "a restart leaves the effect until its first apply"),
    (AdoptsNothing, "test_another_configuration_is_adopted_or_refused", "a new configuration is adopted or refused"),
)


@pytest.mark.exhaustive
@faults(*FAULTS)
def test_a_fault_of_a_very_slow_consumer_is_found(wrong: type[Any], test: str, clause: str) -> None:
    assert clause in message(TableContract, test, consumer=wrong)
