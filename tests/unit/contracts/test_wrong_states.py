"""The contract of consumers finds faults of rare states, previews, failures and neighbours, one for each class."""

import asyncio
import json
import logging
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import pytest
from pydantic import BaseModel
from sound_consumers import Table, TableContract
from wrong_plugins import faults, message, messages

from discovery import ApplyError, Backend, Consumer, Health, PluginConfig, Sample, Update
from discovery.testing import within

KINDS = "test_every_kind_of_backend_is_followed"
WAY = "test_the_way_to_a_state_does_not_matter"
FILES = "test_files_are_whole_and_in_their_place"
LEFT = "test_nothing_is_left_behind"
FAILED = "test_an_apply_after_a_failed_one_sets_everything_right"
PREVIEW = "test_a_preview_writes_nothing"
HEALTH = "test_health_can_be_asked_for_at_any_time"
FIGURES = "test_metrics_and_details_can_be_read_at_any_time"
MADE = "test_making_one_touches_nothing"
RESTART = "test_a_restart_takes_over_what_is_there"
HISTORIES = "test_recorded_histories_are_followed"


class KeysByAddress(Table):
    def rows(self, update: Update) -> list[dict[str, Any]]:
        return [self.row(update, each) for each in {each.address: each for each in update.snapshot.backends()}.values()]


class ReplacesCharactersOfServices(Table):
    def rows(self, update: Update) -> list[dict[str, Any]]:
        named = {
            (each.service.replace("-", "_").replace(".", "_"), each.id): each for each in update.snapshot.backends()
        }
        return [self.row(update, each) for each in named.values()]


class ReplacesCharactersOfIds(Table):
    def rows(self, update: Update) -> list[dict[str, Any]]:
        named = {(each.service, each.id.replace("-", "_")): each for each in update.snapshot.backends()}
        return [self.row(update, each) for each in named.values()]


class IgnoresTheCaseOfIds(Table):
    def rows(self, update: Update) -> list[dict[str, Any]]:
        named = {(each.service, each.id.lower()): each for each in update.snapshot.backends()}
        return [self.row(update, each) for each in named.values()]


class CutsIdsOff(Table):
    def rows(self, update: Update) -> list[dict[str, Any]]:
        named = {(each.service, each.id[:128]): each for each in update.snapshot.backends()}
        return [self.row(update, each) for each in named.values()]


class FailsForARefusedRecord(Table):
    async def apply(self, update: Update) -> None:
        if update.snapshot.rejected:
            raise ApplyError("there is a bad record")
        await super().apply(update)


class StopsAtARefusedRecord(Table):
    async def apply(self, update: Update) -> None:
        if not update.snapshot.rejected:
            await super().apply(update)


class ComparesAllButTheWeight(Table):
    known: dict[str, Backend]

    async def apply(self, update: Update) -> None:
        before, self.known = getattr(self, "known", {}), {each.key: each for each in update.snapshot.backends()}
        for key, each in self.known.items():
            old = before.get(key)
            if old and (old.host, old.port, old.state, old.labels) == (each.host, each.port, each.state, each.labels):
                self.known[key] = old
        await super().apply(update)

    def row(self, update: Update, backend: Backend) -> dict[str, Any]:
        return {**super().row(update, backend), "weight": getattr(self, "known", {}).get(backend.key, backend).weight}


class ComparesAllButLabels(Table):
    known: dict[str, Backend]

    async def apply(self, update: Update) -> None:
        before, self.known = getattr(self, "known", {}), {each.key: each for each in update.snapshot.backends()}
        for key, each in self.known.items():
            old = before.get(key)
            if old and (old.host, old.port, old.state, old.weight) == (each.host, each.port, each.state, each.weight):
                self.known[key] = old
        await super().apply(update)

    def row(self, update: Update, backend: Backend) -> dict[str, Any]:
        labels = getattr(self, "known", {}).get(backend.key, backend).labels
        return {**super().row(update, backend), "labels": dict(labels)}


class WritesTheFirstHundred(Table):
    def rows(self, update: Update) -> list[dict[str, Any]]:
        return super().rows(update)[:100]


class MovesATemporaryFile(Table):
    def write(self, text: str) -> None:
        descriptor, path = tempfile.mkstemp()
        os.write(descriptor, text.encode())
        os.close(descriptor)
        shutil.move(path, self.path)


class WritesElsewhereOnAThread(Table):
    async def apply(self, update: Update) -> None:
        await super().apply(update)
        path = Path(tempfile.gettempdir(), "contract-outside-of-a-thread.json")
        thread = threading.Thread(target=path.write_text, args=("{}",))
        thread.start()
        thread.join()


class HidesTheFailureOfAThread(Table):
    async def apply(self, update: Update) -> None:
        with ThreadPoolExecutor(1) as pool:
            pool.submit(self.write, self.text(update))


class RemovesItsFileAtTheEnd(Table):
    async def teardown(self) -> None:
        self.path.unlink(missing_ok=True)


class RemovesItsFileAtTheBeginning(Table):
    async def setup(self) -> None:
        self.path.unlink(missing_ok=True)


class PreviewsAdditionsAlone(Table):
    async def preview(self, update: Update) -> str:
        lines = (await super().preview(update)).splitlines()
        return "\n".join(line for line in lines if line.startswith("+") and not line.startswith("+++"))


class PreviewsAddressesAlone(Table):
    async def preview(self, update: Update) -> str:
        rows = json.loads(self.path.read_text()) if self.path.exists() else []
        old = {f"{row['service']} {row['addresses']} {row['port']}" for row in rows}
        new = {f"{each.service} {[*update.addresses_of(each)]} {each.port}" for each in update.snapshot.backends()}
        return "\n".join([*(f"- {each}" for each in sorted(old - new)), *(f"+ {each}" for each in sorted(new - old))])


class ConfiguresLogging(Table):
    async def setup(self) -> None:
        logging.basicConfig(level=logging.DEBUG, force=True)


class ExtendsTheSearchPath(Table):
    async def setup(self) -> None:
        sys.path.insert(0, str(self.context.run_dir))


class BlocksInMetricsForAMoment(Table):
    def metrics(self) -> Iterable[Sample]:
        time.sleep(within(0.5))
        return ()


class BlocksInHealth(Table):
    async def health(self) -> Health:
        time.sleep(within(2.2))  # noqa: ASYNC251
        return Health()


class AsksWithoutACause(Table):
    async def setup(self) -> None:
        self.task = asyncio.create_task(self.ask())

    async def ask(self) -> None:
        while True:
            await asyncio.sleep(0.001)
            self.context.request_apply()

    async def teardown(self) -> None:
        if hasattr(self, "task"):
            self.task.cancel()


class NeverNeedsToStop(Table):
    @property
    def stop_seconds(self) -> float:
        return float("inf")


class Loose(BaseModel):
    weight: int = 1


class NestedOptions(PluginConfig):
    name: str = "backends.json"
    indent: int = 1
    services: dict[str, list[Loose]] = {"web": [Loose()]}


class HasLooseTablesWithin(Table):
    Config = NestedOptions  # type: ignore[assignment]


class LeaksWhenItsSetupFails(Table):
    ready = False

    async def setup(self) -> None:
        self.descriptor = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        self.write("[]")
        self.ready = True

    async def teardown(self) -> None:
        if self.ready:
            os.close(self.descriptor)


class HasASampleOfEachApply(Table):
    def metrics(self) -> Iterable[Sample]:
        return [Sample("applied", 1, {"number": str(number)}, kind="gauge") for number in range(self.applies)]


class EndsItsNeighbours(Table):
    open: ClassVar[bool] = False

    async def setup(self) -> None:
        type(self).open = True

    async def apply(self, update: Update) -> None:
        if not self.open:
            raise ApplyError("closed")
        await super().apply(update)

    async def teardown(self) -> None:
        type(self).open = False


class TakesALowerRevisionForAnOldOne(Table):
    """Ignores every state after the loss of a store, whose revisions begin again at 1."""

    revision = 0

    async def apply(self, update: Update) -> None:
        if update.snapshot.revision >= self.revision:
            self.revision = update.snapshot.revision
            await super().apply(update)


FAULTS = (
    (KeysByAddress, KINDS, "one address in two services is two backends"),
    (ReplacesCharactersOfServices, KINDS, "names that are alike are different names"),
    (ReplacesCharactersOfIds, KINDS, "names that are alike are different names"),
    (IgnoresTheCaseOfIds, KINDS, "names that are alike are different names"),
    (CutsIdsOff, KINDS, "names that are alike are different names"),
    (FailsForARefusedRecord, KINDS, "records that the core has refused"),
    (StopsAtARefusedRecord, KINDS, "a record that was refused hurts itself alone"),
    (ComparesAllButTheWeight, WAY, "the order of changes does not matter"),
    (ComparesAllButLabels, WAY, "the order of changes does not matter"),
    (WritesTheFirstHundred, KINDS, "each of many backends counts"),
    (MovesATemporaryFile, FILES, "moved from elsewhere"),
    (WritesElsewhereOnAThread, FILES, "files are in the directories of the instance"),
    (HidesTheFailureOfAThread, FAILED, "a failed apply raises"),
    (RemovesItsFileAtTheEnd, LEFT, "the effect outlasts a consumer that is not resident"),
    (RemovesItsFileAtTheBeginning, RESTART, "a restart leaves the effect until its first apply"),
    (PreviewsAdditionsAlone, PREVIEW, "a preview tells every kind of change"),
    (PreviewsAddressesAlone, PREVIEW, "a preview tells every kind of change"),
    (ConfiguresLogging, LEFT, "root logger"),
    (ExtendsTheSearchPath, LEFT, "search path of modules"),
    (BlocksInMetricsForAMoment, FIGURES, "metrics do not block"),
    (BlocksInHealth, HEALTH, "health is told quickly"),
    (AsksWithoutACause, KINDS, "an equal apply asks for no other"),
    (NeverNeedsToStop, MADE, "seconds as `stop_seconds`"),
    (LeaksWhenItsSetupFails, "test_tearing_down_is_safe_without_a_setup_and_after_one", "each setup that has failed"),
    (HasASampleOfEachApply, WAY, "as many samples"),
    (EndsItsNeighbours, "test_two_instances_do_not_touch_each_other", "after the end of another instance"),
)


@faults(*FAULTS, most=4)
def test_a_fault_of_a_rare_state_is_found(wrong: type[Consumer[Any]], test: str, clause: str) -> None:
    assert clause in message(TableContract, test, consumer=wrong)


def test_a_loose_table_within_a_table_is_found() -> None:
    config = {"services": {"web": [{"weight": 2}]}}
    told = message(TableContract, "test_the_options_are_strict", consumer=HasLooseTablesWithin, config=config)
    assert "the option was accepted in the table services.web[0]" in told


def test_a_history_that_is_not_followed_is_found() -> None:
    told = message(TableContract, HISTORIES, consumer=TakesALowerRevisionForAnOldOne)
    assert "every recorded history ends with the same effect" in told
    assert "after the history 'reset'" in told


@pytest.mark.exhaustive
@faults(*FAULTS)
def test_the_whole_contract_finds_a_fault_of_a_rare_state(wrong: type[Consumer[Any]], test: str, clause: str) -> None:
    found = messages(TableContract, consumer=wrong)
    assert found
    assert all("breaks the clause" in each for each in found)
