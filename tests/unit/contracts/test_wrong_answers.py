"""The contract of consumers finds every consumer that answers wrongly: health, metrics, details, previews, options."""

import asyncio
import socket
import time
from collections.abc import Iterable, Mapping
from typing import Any

import pytest
from sound_consumers import Options, Table, TableContract
from wrong_plugins import faults, message, messages

from discovery import Consumer, Context, Health, Sample, Update, Validation
from discovery.testing import within

HEALTH = "test_health_can_be_asked_for_at_any_time"
FIGURES = "test_metrics_and_details_can_be_read_at_any_time"
PREVIEW = "test_a_preview_writes_nothing"
VALIDATE = "test_validating_finds_no_fault_and_makes_no_run_directory"
OTHER = "test_another_configuration_is_adopted_or_refused"
SUCCESSOR = "test_a_successor_goes_on"
ORPHANS = "test_orphans_are_ended_and_nothing_else"
WAY = "test_the_way_to_a_state_does_not_matter"


class IsIllAfterAnApply(Table):
    async def health(self) -> Health:
        return Health(ok=False, detail="a headache")


class HasNoHealthBeforeAnApply(Table):
    async def health(self) -> Health:
        assert self.applies, "not applied yet"
        return Health()


class AnswersHealthWithTrue(Table):
    async def health(self) -> Any:
        return True


class TellsItsHealthInLines(Table):
    async def health(self) -> Health:
        return Health(detail="one\ntwo")


class HasMetricsInTheLoopAlone(Table):
    def metrics(self) -> Iterable[Sample]:
        asyncio.get_running_loop()
        return super().metrics()


class BlocksInMetrics(Table):
    def metrics(self) -> Iterable[Sample]:
        time.sleep(within(4))
        return ()


class HasNoMetricsBeforeAnApply(Table):
    def metrics(self) -> Iterable[Sample]:
        yield Sample("share", 1 / self.applies, kind="gauge")


class NamesAMetricWithADash(Table):
    def metrics(self) -> Iterable[Sample]:
        yield Sample("not-a-name", 1)


class HasAMetricTwice(Table):
    def metrics(self) -> Iterable[Sample]:
        yield Sample("a", 1)
        yield Sample("a", 2)


class LabelsAMetricWithANumber(Table):
    def metrics(self) -> Iterable[Sample]:
        yield Sample("a", 1, {"port": 80})  # type: ignore[dict-item]


class CountsDown(Table):
    def metrics(self) -> Iterable[Sample]:
        yield Sample("left", 1000 - self.applies)


class HasACoroutineForMetrics(Table):
    async def metrics(self) -> Iterable[Sample]:  # type: ignore[override]
        return ()


class ChangesWhatAScrapeReads(Table):
    async def setup(self) -> None:
        self.seen: dict[str, float] = {}

    async def apply(self, update: Update) -> None:
        for number in range(20):
            for key in range(2000):
                self.seen[f"{number} {key}"] = 1.0
            self.seen.clear()
        await super().apply(update)

    def metrics(self) -> Iterable[Sample]:
        for number, (key, value) in enumerate(self.seen.items()):
            yield Sample("seen", value, {"key": key})
            if number < 3:
                time.sleep(0.002)  # as threads take turns on a busy machine


class InspectsAPath(Table):
    async def inspect(self) -> Mapping[str, Any]:
        return {"file": self.path}


class InspectsASet(Table):
    async def inspect(self) -> Mapping[str, Any]:
        return {"ids": {1, 2}}


class InspectsAList(Table):
    async def inspect(self) -> Any:
        return [1, 2]


class InspectsForTooLong(Table):
    async def inspect(self) -> Mapping[str, Any]:
        await asyncio.sleep(within(60))
        return {}


class PreviewsNothing(Table):
    async def preview(self, update: Update) -> str:
        return ""


class PreviewsAlways(Table):
    async def preview(self, update: Update) -> str:
        return "+ something"


class PreviewsFromNothing(Table):
    async def preview(self, update: Update) -> str:
        if update.previous == update.snapshot:
            return ""
        return "".join(f"+ {line}\n" for line in self.text(update).splitlines())


class AppliesInPreview(Table):
    async def preview(self, update: Update) -> str:
        text = await super().preview(update)
        self.context.run_dir.mkdir(exist_ok=True)
        self.write(self.text(update))
        return text


class PreviewsAList(Table):
    async def preview(self, update: Update) -> Any:
        return (await super().preview(update)).splitlines()


class ValidatesToAFault(Table):
    async def validate(self, update: Update) -> Validation:
        return Validation(faults=("no backend",) if not update.snapshot.services else ())


class ValidatesToText(Table):
    async def validate(self, update: Update) -> Validation:
        return Validation(unchecked="everything")  # type: ignore[arg-type]


class ValidatesByWriting(Table):
    async def validate(self, update: Update) -> Validation:
        self.context.run_dir.mkdir(parents=True, exist_ok=True)
        return Validation()


class RefusesAndAdopts(Table):
    async def reconfigure(self, config: Options) -> bool:
        self.config = config
        return False


class AcceptsAndForgets(Table):
    async def reconfigure(self, config: Options) -> bool:
        return True


class AnswersNothingWhenReconfigured(Table):
    async def reconfigure(self, config: Options) -> Any:
        self.config = config


class CannotEndWithOtherOptions(Table):
    async def teardown(self) -> None:
        assert self.config == Options(), "these options are new"


class HandsOverAClosedSocket(Table):
    async def hand_over(self) -> tuple[socket.socket, ...]:
        listening = socket.create_server(("127.0.0.1", 0))
        listening.close()
        return (listening,)


class HandsOverAList(Table):
    async def hand_over(self) -> Any:
        return []


class EndsWhatAFileNames(Table):
    @classmethod
    async def end_orphans(cls, context: Context) -> Mapping[int, str]:
        if context.run_dir.exists():
            for path in context.run_dir.iterdir():
                path.unlink()
        return {}


class NeedsADirectoryForOrphans(Table):
    @classmethod
    async def end_orphans(cls, context: Context) -> Mapping[int, str]:
        return {int(path.read_text()): "it" for path in context.run_dir.glob("pid")}


FAULTS = (
    (IsIllAfterAnApply, HEALTH, "health is good after an apply that succeeded"),
    (HasNoHealthBeforeAnApply, HEALTH, "health is told in one line"),
    (AnswersHealthWithTrue, HEALTH, "health is told in one line"),
    (TellsItsHealthInLines, HEALTH, "health is told in one line"),
    (HasMetricsInTheLoopAlone, FIGURES, "metrics can be read at any time"),
    (BlocksInMetrics, FIGURES, "metrics has not returned"),
    (HasNoMetricsBeforeAnApply, FIGURES, "metrics can be read at any time"),
    (NamesAMetricWithADash, FIGURES, "metrics have names labels and values"),
    (HasAMetricTwice, FIGURES, "metrics have names labels and values"),
    (LabelsAMetricWithANumber, FIGURES, "metrics have names labels and values"),
    (CountsDown, FIGURES, "counters never decrease"),
    (HasACoroutineForMetrics, FIGURES, "metrics can be read at any time"),
    (ChangesWhatAScrapeReads, WAY, "metrics can be read during an apply"),
    (InspectsAPath, FIGURES, "details are json"),
    (InspectsASet, FIGURES, "details are json"),
    (InspectsAList, FIGURES, "details are json"),
    (InspectsForTooLong, FIGURES, "inspect has not returned within"),
    (PreviewsNothing, PREVIEW, "a preview tells every change"),
    (PreviewsAlways, PREVIEW, "a preview of no change is empty"),
    (PreviewsFromNothing, PREVIEW, "a preview compares with what is there"),
    (AppliesInPreview, PREVIEW, "a preview changes nothing"),
    (PreviewsAList, PREVIEW, "a preview is text"),
    (ValidatesToAFault, VALIDATE, "validating finds no fault"),
    (ValidatesToText, VALIDATE, "validating finds no fault"),
    (ValidatesByWriting, VALIDATE, "validating finds no fault"),
    (RefusesAndAdopts, OTHER, "a new configuration is adopted or refused"),
    (AcceptsAndForgets, OTHER, "a new configuration is adopted or refused"),
    (AnswersNothingWhenReconfigured, OTHER, "a new configuration is adopted or refused"),
    (CannotEndWithOtherOptions, OTHER, "these options are new"),
    (HandsOverAClosedSocket, SUCCESSOR, "sockets are handed over open"),
    (HandsOverAList, SUCCESSOR, "sockets are handed over open"),
    (EndsWhatAFileNames, ORPHANS, "orphans are ended and nothing else"),
    (NeedsADirectoryForOrphans, ORPHANS, "orphans are ended and nothing else"),
)


@faults(*FAULTS)
def test_a_wrong_answer_is_found(wrong: type[Consumer[Any]], test: str, clause: str) -> None:
    assert clause in message(TableContract, test, consumer=wrong)


@pytest.mark.exhaustive
@faults(*FAULTS)
def test_the_whole_contract_finds_a_wrong_answer(wrong: type[Consumer[Any]], test: str, clause: str) -> None:
    found = messages(TableContract, consumer=wrong)
    assert found
    assert all("breaks the clause" in each for each in found)
