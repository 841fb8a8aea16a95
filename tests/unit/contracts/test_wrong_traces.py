"""The contract of consumers finds every consumer that harms its process or its files, or hangs."""

import asyncio
import os
import signal
import socket
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, ClassVar

import pytest
from pydantic import BaseModel, ConfigDict
from sound_consumers import Options, Table, TableContract
from wrong_plugins import faults, message, messages

from discovery import Consumer, Context, PluginConfig, Update
from discovery.testing import within

MADE = "test_making_one_touches_nothing"
OPTIONS = "test_the_options_are_strict"
FILES = "test_files_are_whole_and_in_their_place"
LEFT = "test_nothing_is_left_behind"
TORN = "test_tearing_down_is_safe_without_a_setup_and_after_one"
HEALTH = "test_health_can_be_asked_for_at_any_time"
WAY = "test_the_way_to_a_state_does_not_matter"


class ReadsAFileWhenMade(Table):
    def __init__(self, config: Options, context: Context) -> None:
        super().__init__(config, context)
        Path("/proc/self/stat").read_text()


class MakesItsDirectoryWhenMade(Table):
    def __init__(self, config: Options, context: Context) -> None:
        super().__init__(config, context)
        context.run_dir.mkdir()


class StartsAThreadWhenMade(Table):
    def __init__(self, config: Options, context: Context) -> None:
        super().__init__(config, context)
        threading.Thread(target=time.sleep, args=(within(3),), daemon=True).start()


class NeedsALoopWhenMade(Table):
    def __init__(self, config: Options, context: Context) -> None:
        super().__init__(config, context)
        self.loop = asyncio.get_running_loop()


class AnswersResidentWithText(Table):
    @property
    def resident(self) -> Any:
        return "no"


class HasNoStopSeconds(Table):
    @property
    def stop_seconds(self) -> Any:
        return None


class LooseOptions(PluginConfig):
    model_config = ConfigDict(extra="ignore", frozen=True)
    name: str = "backends.json"
    indent: int = 1


class IgnoresUnknownOptions(Table):
    Config = LooseOptions  # type: ignore[assignment]


class ThawedOptions(PluginConfig):
    model_config = ConfigDict(extra="forbid", frozen=False)
    name: str = "backends.json"
    indent: int = 1


class HasOptionsThatChange(Table):
    Config = ThawedOptions  # type: ignore[assignment]


class ForeignOptions(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str = "backends.json"
    indent: int = 1


class HasAModelOfItsOwn(Table):
    Config = ForeignOptions  # type: ignore[assignment]


class Opaque:
    pass


class OpaqueOptions(PluginConfig):
    model_config = ConfigDict(arbitrary_types_allowed=True)
    name: str = "backends.json"
    indent: int = 1
    other: Opaque | None = None


class HasOptionsWithoutASchema(Table):
    Config = OpaqueOptions  # type: ignore[assignment]


class WritesInPlace(Table):
    def write(self, text: str) -> None:
        self.path.write_text(text)


class RemovesBeforeItWrites(Table):
    def write(self, text: str) -> None:
        self.path.unlink(missing_ok=True)
        super().write(text)


class MovesTheOldFileAway(Table):
    def write(self, text: str) -> None:
        if self.path.exists():
            self.path.rename(self.path.with_suffix(".old"))
        super().write(text)


class TruncatesAndWrites(Table):
    def write(self, text: str) -> None:
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT)
        os.ftruncate(descriptor, 0)
        os.write(descriptor, text.encode())
        os.close(descriptor)


class WritesToTheTemporaryDirectory(Table):
    async def apply(self, update: Update) -> None:
        await super().apply(update)
        Path(tempfile.gettempdir(), "contract-outside.json").write_text("{}")


class WritesToTheWorkingDirectory(Table):
    async def apply(self, update: Update) -> None:
        await super().apply(update)
        descriptor, path = tempfile.mkstemp(prefix="contract-outside-")
        os.close(descriptor)
        self.paths = [*getattr(self, "paths", []), path]


class ChangesTheDirectory(Table):
    async def setup(self) -> None:
        os.chdir(self.context.run_dir)


class ChangesTheUmask(Table):
    async def apply(self, update: Update) -> None:
        os.umask(0o077)
        await super().apply(update)


class ChangesTheEnvironment(Table):
    async def setup(self) -> None:
        os.environ["CONTRACT_OF_TABLE"] = "1"


class ChangesTheTimeoutOfSockets(Table):
    async def setup(self) -> None:
        socket.setdefaulttimeout(5.0)


class HandlesASignal(Table):
    async def setup(self) -> None:
        signal.signal(signal.SIGUSR2, lambda *_: None)


class LeavesAThread(Table):
    async def setup(self) -> None:
        threading.Thread(target=time.sleep, args=(within(8),), daemon=True, name="forgotten").start()


class LeavesAChild(Table):
    async def setup(self) -> None:
        self.child = await asyncio.create_subprocess_exec("sleep", str(within(8)))


class LeavesAZombie(Table):
    children: ClassVar[list[Any]] = []

    async def apply(self, update: Update) -> None:
        self.children.append(subprocess.Popen(["true"]))  # noqa: ASYNC220
        await super().apply(update)


class LeavesADescriptor(Table):
    async def setup(self) -> None:
        os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)


class KeepsItsFileOpen(Table):
    async def apply(self, update: Update) -> None:
        await super().apply(update)
        self.file = self.path.open()


class LeavesATask(Table):
    async def setup(self) -> None:
        self.task = asyncio.create_task(asyncio.sleep(3600))


class NeedsASetupToEnd(Table):
    async def setup(self) -> None:
        self.file = self.path

    async def teardown(self) -> None:
        assert self.file


class CannotEndAfterAFailedSetup(Table):
    ready = True

    async def setup(self) -> None:
        self.ready = False
        self.write("[]")
        self.ready = True

    async def teardown(self) -> None:
        assert self.ready, "half set up"


class EndsTooLate(Table):
    async def teardown(self) -> None:
        await asyncio.Event().wait()


class BlocksItsTeardown(Table):
    async def teardown(self) -> None:
        await asyncio.sleep(0)
        while True:
            time.sleep(0.01)  # noqa: ASYNC251


class HangsInSetup(Table):
    async def setup(self) -> None:
        await asyncio.get_running_loop().create_future()


class HangsInApply(Table):
    async def apply(self, update: Update) -> None:
        threading.Event().wait()


FAULTS = (
    (ReadsAFileWhenMade, MADE, "making one touches nothing"),
    (MakesItsDirectoryWhenMade, MADE, "making one touches nothing"),
    (StartsAThreadWhenMade, MADE, "making one touches nothing"),
    (NeedsALoopWhenMade, MADE, "making one touches nothing"),
    (AnswersResidentWithText, MADE, "making one touches nothing"),
    (HasNoStopSeconds, MADE, "making one touches nothing"),
    (IgnoresUnknownOptions, OPTIONS, "unknown options are refused"),
    (HasOptionsThatChange, OPTIONS, "the configuration is frozen"),
    (HasAModelOfItsOwn, OPTIONS, "the configuration is a plugin config"),
    (HasOptionsWithoutASchema, OPTIONS, "the configuration has a schema"),
    (WritesInPlace, FILES, "files are replaced whole"),
    (RemovesBeforeItWrites, FILES, "files are never absent"),
    (MovesTheOldFileAway, FILES, "files are never absent"),
    (TruncatesAndWrites, FILES, "files are replaced whole"),
    (WritesToTheTemporaryDirectory, FILES, "files are in the directories of the instance"),
    (WritesToTheWorkingDirectory, FILES, "files are in the directories of the instance"),
    (ChangesTheDirectory, LEFT, "settings of the process stay"),
    (ChangesTheUmask, LEFT, "settings of the process stay"),
    (ChangesTheEnvironment, LEFT, "settings of the process stay"),
    (ChangesTheTimeoutOfSockets, LEFT, "settings of the process stay"),
    (HandlesASignal, LEFT, "signal only works in main thread"),
    (LeavesAThread, LEFT, "threads children and descriptors end"),
    (LeavesAChild, LEFT, "threads children and descriptors end"),
    (LeavesAZombie, WAY, "nothing grows with the applies"),
    (LeavesADescriptor, LEFT, "threads children and descriptors end"),
    (KeepsItsFileOpen, LEFT, "threads children and descriptors end"),
    (LeavesATask, LEFT, "tasks end with the teardown"),
    (NeedsASetupToEnd, TORN, "tearing down is safe"),
    (CannotEndAfterAFailedSetup, TORN, "half set up"),
)
HANGS = (
    (EndsTooLate, TORN, "teardown without a setup has not returned"),
    (BlocksItsTeardown, TORN, "time.sleep(0.01)"),
    (HangsInSetup, HEALTH, "setup has not returned within"),
    (HangsInApply, HEALTH, "threading.Event().wait()"),
)


@pytest.fixture(autouse=True)
def _few_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait less for what goes on forever, which has one cause here."""
    monkeypatch.setattr("discovery.testing.consumers.session._LEAK_SECONDS", 0.5)


@faults(*FAULTS)
def test_a_harm_is_found(wrong: type[Consumer[Any]], test: str, clause: str) -> None:
    assert clause in message(TableContract, test, consumer=wrong)


@pytest.mark.parametrize("seconds", [1.0])
@faults(*HANGS, most=1)
def test_a_hang_is_found(
    wrong: type[Consumer[Any]], test: str, clause: str, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("life", "gentle", "contract", "harsh", "restart"):
        for name in ("CALL_SECONDS", "STOP_SECONDS"):
            monkeypatch.setattr(f"discovery.testing.consumers.{module}.{name}", seconds, raising=False)
    begun = time.monotonic()
    assert clause in message(TableContract, test, consumer=wrong)
    assert "not examined, since an earlier call has hung" in message(TableContract, TORN, consumer=wrong)
    assert time.monotonic() - begun < within(10)


@pytest.mark.exhaustive
@faults(*FAULTS, *HANGS)
def test_the_whole_contract_finds_a_harm(wrong: type[Consumer[Any]], test: str, clause: str) -> None:
    found = messages(TableContract, consumer=wrong)
    assert found
    assert all("breaks the clause" in each for each in found)
