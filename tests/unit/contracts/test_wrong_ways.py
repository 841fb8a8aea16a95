"""The contract of consumers finds every effect that depends on the way, on time, on failures or on neighbours."""

import asyncio
import json
import os
import threading
from contextlib import suppress
from typing import Any, ClassVar

import pytest
from sound_consumers import Table, TableContract
from wrong_plugins import faults, message, messages

from discovery import Backend, Consumer, Snapshot, Update
from discovery.testing import within

KINDS = "test_every_kind_of_backend_is_followed"
WAY = "test_the_way_to_a_state_does_not_matter"
FAILED = "test_an_apply_after_a_failed_one_sets_everything_right"
CANCELLED = "test_an_apply_can_be_cancelled"
RESTART = "test_a_restart_takes_over_what_is_there"


class KeepsTheOrderOfArrival(Table):
    known: dict[str, Backend]

    async def apply(self, update: Update) -> None:
        if not hasattr(self, "known"):
            self.known = {}
        present = {each.key: each for each in update.snapshot.backends()}
        self.known = {key: present[key] for key in self.known if key in present} | present
        await super().apply(update)

    def rows(self, update: Update) -> list[dict[str, Any]]:
        return [self.row(update, backend) for backend in getattr(self, "known", {}).values()]


class NeverRemoves(Table):
    def rows(self, update: Update) -> list[dict[str, Any]]:
        before = json.loads(self.path.read_text()) if self.path.exists() else []
        rows = super().rows(update)
        return [*(row for row in before if row["id"] not in {each["id"] for each in rows}), *rows]


class LeavesFilesOfServices(Table):
    async def apply(self, update: Update) -> None:
        await super().apply(update)
        for name, service in update.snapshot.services.items():
            (self.context.run_dir / f"{name}.list").write_text("".join(each.address for each in service.backends))


class TellsTheFilesOfServicesByChanges(Table):
    async def apply(self, update: Update) -> None:
        await super().apply(update)
        for each in update.changes.removed:
            if each.service not in update.snapshot.services:
                (self.context.run_dir / f"{each.service}.list").unlink(missing_ok=True)
        for name, service in update.snapshot.services.items():
            (self.context.run_dir / f"{name}.list").write_text("".join(each.address for each in service.backends))


class AppendsToItsFile(Table):
    def write(self, text: str) -> None:
        with self.path.open("a") as file:
            file.write(text)


class FollowsTheFirstServiceAlone(Table):
    def rows(self, update: Update) -> list[dict[str, Any]]:
        return super().rows(update)[:1]


class WaitsForEachBackend(Table):
    async def apply(self, update: Update) -> None:
        for _ in update.snapshot.backends():
            await asyncio.sleep(within(0.02))  # the contract waits longer on a patient machine, too
        await super().apply(update)


class AppliesLater(Table):
    async def apply(self, update: Update) -> None:
        asyncio.get_running_loop().call_later(0.05, self.write, self.text(update))


class AppliesOnAThread(Table):
    async def apply(self, update: Update) -> None:
        thread = threading.Timer(0.03, self.write, [self.text(update)])
        thread.start()


class AsksForAnotherApply(Table):
    async def apply(self, update: Update) -> None:
        await super().apply(update)
        self.context.request_apply()


class ChangesTheSnapshot(Table):
    async def apply(self, update: Update) -> None:
        await super().apply(update)
        object.__setattr__(update.snapshot, "revision", 0)


class ChangesALabel(Table):
    async def apply(self, update: Update) -> None:
        await super().apply(update)
        for each in update.snapshot.backends():
            object.__setattr__(each, "labels", {**each.labels, "seen": "yes"})


class AppliesOnce(Table):
    async def apply(self, update: Update) -> None:
        if not self.applies:
            await super().apply(update)


class RemembersBeforeItSucceeds(Table):
    last = ""

    async def apply(self, update: Update) -> None:
        text = self.text(update)
        if text != self.last:
            self.last = text
            await super().apply(update)


class HidesAFailure(Table):
    async def apply(self, update: Update) -> None:
        try:
            await super().apply(update)
        except OSError:
            self.context.log.error("no file")


class MissesWhatWasBetween(Table):
    known: dict[str, Backend]

    async def setup(self) -> None:
        self.known = {}

    async def apply(self, update: Update) -> None:
        for each in update.changes.removed:
            self.known.pop(each.key, None)
        self.known.update({each.key: each for each in (*update.changes.added, *update.changes.updated)})
        rows = [self.row(update, each) for _, each in sorted(self.known.items())]
        self.write(json.dumps(rows))


class SwallowsACancellation(Table):
    async def apply(self, update: Update) -> None:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(0.02)
        await super().apply(update)


class ReportsACancellationAsAnError(Table):
    async def apply(self, update: Update) -> None:
        try:
            await asyncio.sleep(0.02)
        except BaseException as error:
            raise RuntimeError("it has failed") from error
        await super().apply(update)


class BelievesACancelledApply(Table):
    applied: Snapshot | None = None

    async def apply(self, update: Update) -> None:
        if update.snapshot == self.applied:
            return
        self.applied = update.snapshot
        await asyncio.sleep(0.02)
        await super().apply(update)


class KeepsALockWhenCancelled(Table):
    locked = False

    async def apply(self, update: Update) -> None:
        assert not self.locked, "another apply is not done"
        self.locked = True
        await asyncio.sleep(0.02)
        await super().apply(update)
        self.locked = False


class SharesAVariableOfTheClass(Table):
    texts: ClassVar[set[str]] = set()

    async def apply(self, update: Update) -> None:
        text = self.text(update)
        if text not in self.texts:
            self.texts.clear()
            self.texts.add(text)
            self.write(text)


class BelievesAFileOfAnEarlierRun(Table):
    async def apply(self, update: Update) -> None:
        if update.previous is not None or not self.path.exists():
            await super().apply(update)


class RunsOutOfDescriptors(Table):
    async def apply(self, update: Update) -> None:
        await super().apply(update)
        self.kept = [*getattr(self, "kept", []), os.open("/dev/null", os.O_RDONLY)]

    async def teardown(self) -> None:
        for each in getattr(self, "kept", []):
            os.close(each)


class KeepsAFileOfEachApply(Table):
    async def apply(self, update: Update) -> None:
        await super().apply(update)
        (self.context.state_dir / "old").mkdir(parents=True, exist_ok=True)
        (self.context.state_dir / "old" / f"{self.applies}").touch()


FAULTS = (
    (KeepsTheOrderOfArrival, WAY, "the order of changes does not matter"),
    (NeverRemoves, WAY, "the order of changes does not matter"),
    (LeavesFilesOfServices, KINDS, "a state that comes back has its effect again"),
    (TellsTheFilesOfServicesByChanges, RESTART, "a restart takes over what is there"),
    (AppendsToItsFile, "test_applying_twice_is_applying_once", "applying twice is applying once"),
    (FollowsTheFirstServiceAlone, KINDS, "each backend counts"),
    (WaitsForEachBackend, KINDS, "many backends are applied in time"),
    (AppliesLater, WAY, "the way to a state does not matter"),
    (AppliesOnAThread, WAY, "the way to a state does not matter"),
    (AsksForAnotherApply, KINDS, "an equal apply asks for no other"),
    (ChangesTheSnapshot, KINDS, "the input is left alone"),
    (ChangesALabel, KINDS, "the input is left alone"),
    (AppliesOnce, WAY, "the way to a state does not matter"),
    (RemembersBeforeItSucceeds, FAILED, "an apply after a failed one sets everything right"),
    (HidesAFailure, FAILED, "a failed apply raises"),
    (MissesWhatWasBetween, FAILED, "an apply after a failed one sets everything right"),
    (SwallowsACancellation, CANCELLED, "an apply can be cancelled"),
    (ReportsACancellationAsAnError, CANCELLED, "an apply can be cancelled"),
    (BelievesACancelledApply, CANCELLED, "an apply after a cancelled one is right"),
    (KeepsALockWhenCancelled, CANCELLED, "another apply is not done"),
    (SharesAVariableOfTheClass, "test_two_instances_do_not_touch_each_other", "two instances do not touch each other"),
    (BelievesAFileOfAnEarlierRun, RESTART, "a restart takes over what is there"),
    (RunsOutOfDescriptors, WAY, "nothing grows with the applies"),
    (KeepsAFileOfEachApply, WAY, "nothing grows with the applies"),
)


@faults(*FAULTS)
def test_a_wrong_way_is_found(wrong: type[Consumer[Any]], test: str, clause: str) -> None:
    assert clause in message(TableContract, test, consumer=wrong)


@pytest.mark.exhaustive
@faults(*FAULTS)
def test_the_whole_contract_finds_a_wrong_way(wrong: type[Consumer[Any]], test: str, clause: str) -> None:
    found = messages(TableContract, consumer=wrong)
    assert found
    assert all("breaks the clause" in each for each in found)
