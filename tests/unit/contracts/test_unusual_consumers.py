"""The contract accepts consumers that are right and unusual, in less than 20 s each."""

import asyncio
import json
import tempfile
import time
from pathlib import Path
from typing import Any, ClassVar

import pytest
from sampling import sampled
from sound_consumers import Options, Table, TableContract
from wrong_plugins import messages

from discovery import Consumer, Health, PluginConfig, State, Update
from discovery.testing import ConsumerContract, backend, snapshot, within
from discovery.toolkit import write_atomically


class Blocking(Table):
    """Blocks its thread, as a consumer may."""

    async def apply(self, update: Update) -> None:
        time.sleep(0.05)  # noqa: ASYNC251 - it may
        await super().apply(update)


class Slow(Table):
    """Takes its time with every apply, as a consumer that asks a device over a network."""

    async def apply(self, update: Update) -> None:
        await asyncio.sleep(0.5)
        await super().apply(update)


class VerySlow(Table):
    """Takes a second with every apply, blocking."""

    async def apply(self, update: Update) -> None:
        time.sleep(1)  # noqa: ASYNC251 - it may
        await super().apply(update)


class SlowToStop(Table):
    async def teardown(self) -> None:
        await asyncio.sleep(0.5)


class Remembering(Table):
    """Writes only what differs from what it has written."""

    written: str | None = None

    async def apply(self, update: Update) -> None:
        if (text := self.text(update)) != self.written:
            self.write(text)
            self.written = text

    async def reconfigure(self, config: Options) -> bool:
        self.written = None
        return await super().reconfigure(config)


class Incremental(Table):
    """Keeps a table and applies the changes, but begins again with the snapshot after a failure."""

    known: dict[str, Any] | None = None

    async def apply(self, update: Update) -> None:
        known, self.known = self.known, None
        if known is None or update.previous is None or update.addresses is not None:
            known = {each.key: each for each in update.snapshot.backends()}
        for each in update.changes.removed:
            known.pop(each.key, None)
        known.update({each.key: each for each in (*update.changes.added, *update.changes.updated)})
        self.write(json.dumps([self.row(update, each) for _, each in sorted(known.items())], indent=1) + "\n")
        self.known = known


class Synchronous(Table):
    """Has plain functions in place of coroutine functions."""

    def setup(self) -> None:  # type: ignore[override]
        self.ready = True

    def apply(self, update: Update) -> None:  # type: ignore[override]
        self.write(self.text(update))
        self.applies += 1

    def health(self) -> Health:  # type: ignore[override]
        return Health()

    def teardown(self) -> None:  # type: ignore[override]
        self.ready = False


class Resident(Table):
    """Runs a program for as long as the daemon, and gives it each file."""

    program: asyncio.subprocess.Process | None = None

    @property
    def resident(self) -> bool:
        return True

    async def setup(self) -> None:
        self.program = await asyncio.create_subprocess_exec(
            "cat", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, start_new_session=True
        )

    async def apply(self, update: Update) -> None:
        assert self.program is not None
        assert self.program.stdin is not None
        assert self.program.stdout is not None
        await super().apply(update)
        self.program.stdin.write(b"reload\n")
        await self.program.stdin.drain()
        assert await self.program.stdout.readline() == b"reload\n"

    async def health(self) -> Health:
        return Health(self.program is not None and self.program.returncode is None, "the program runs")

    async def teardown(self) -> None:
        if self.program is not None:
            self.program.kill()
            await self.program.wait()


class Background(Table):
    """Has a task of its own, which ends with the teardown."""

    task: asyncio.Task[None] | None = None

    async def setup(self) -> None:
        self.task = asyncio.create_task(self.tick())

    async def tick(self) -> None:
        while True:  # noqa: ASYNC110 - a task that never ends
            await asyncio.sleep(0.01)

    async def teardown(self) -> None:
        if self.task is not None:
            self.task.cancel()
            await asyncio.wait({self.task})


class InAnExecutor(Table):
    """Writes on a thread of the loop's pool."""

    async def apply(self, update: Update) -> None:
        await asyncio.to_thread(self.write, self.text(update))


class FilesOfServices(Table):
    """Has a file for each service, and a list of them by which a restart finds the old ones."""

    async def apply(self, update: Update) -> None:
        for name, service in update.snapshot.services.items():
            rows = [self.row(update, each) for each in service.backends]
            write_atomically(self.context.run_dir / f"{name}.json", json.dumps(rows).encode(), durable=False)
        for path in self.context.run_dir.glob("*.json"):
            if path.stem not in update.snapshot.services:
                path.unlink()

    async def preview(self, update: Update) -> str:
        raise NotImplementedError


class Linked(Table):
    """Writes a file of another name each time, and turns a link."""

    def write(self, text: str) -> None:
        fresh = self.context.run_dir / f"{abs(hash(text))}.data"
        if not fresh.exists():
            write_atomically(fresh, text.encode(), durable=False)
        link = self.path.with_suffix(".link")
        link.unlink(missing_ok=True)
        link.symlink_to(fresh.name)
        link.replace(self.path)
        for path in self.context.run_dir.glob("*.data"):
            if path != fresh:
                path.unlink()


class ElsewhereOptions(PluginConfig):
    path: Path


class Elsewhere(Consumer[ElsewhereOptions]):
    """Writes a configured file, with draining backends left out, and knows neither weights nor previews."""

    Config = ElsewhereOptions

    async def apply(self, update: Update) -> None:
        active = [each.address for each in update.snapshot.backends() if each.state is State.ACTIVE]
        temporary = self.config.path.with_suffix(".new")
        temporary.write_text("\n".join(active))
        temporary.replace(self.config.path)


class ElsewhereContract(ConsumerContract):
    consumer = Elsewhere

    def setup_method(self, method: object) -> None:
        self.directory = tempfile.TemporaryDirectory()
        self.config = {"path": f"{self.directory.name}/out.txt"}  # type: ignore[misc]

    def teardown_method(self, method: object) -> None:
        self.directory.cleanup()

    def world(self, run_dir: Path) -> object:
        return Path(str(self.config["path"])).read_text()


class InMemory(Consumer[PluginConfig]):
    """Keeps its effect in memory, where its test finds it."""

    made: ClassVar[list["InMemory"]] = []

    async def setup(self) -> None:
        self.effect: object = None
        self.made.append(self)

    async def apply(self, update: Update) -> None:
        found = [(each, update.addresses_of(each)) for each in update.snapshot.backends()]
        self.effect = [(each.key, at, each.port, each.weight, each.state, {**each.labels}) for each, at in found]


class InMemoryContract(ConsumerContract):
    consumer = InMemory
    snapshots = (
        snapshot(backend("db", "x", "10.0.0.1", 5432), revision=7),
        snapshot(backend("db", "x", "10.0.0.2", 5432), backend("cache", "x", "10.0.0.3", 6379), revision=9),
    )

    def world(self, run_dir: Path) -> object:
        return InMemory.made[-1].effect


class Named(Table):
    """Has the path of its directory in its file."""

    def text(self, update: Update) -> str:
        return f"{super().text(update)}// {self.context.run_dir}\n"


UNUSUAL = (
    Table,
    Blocking,
    Slow,
    VerySlow,
    SlowToStop,
    Remembering,
    Incremental,
    Synchronous,
    Resident,
    Background,
    InAnExecutor,
    FilesOfServices,
    Linked,
    Named,
)


@pytest.mark.parametrize("consumer", sampled([pytest.param(each, id=each.__name__) for each in UNUSUAL], 2))
def test_an_unusual_consumer_is_accepted(consumer: type[Table]) -> None:
    begun = time.monotonic()
    assert messages(TableContract, consumer=consumer) == []
    assert time.monotonic() - begun < within(20)


@pytest.mark.parametrize("contract", [ElsewhereContract, InMemoryContract])
def test_an_effect_may_be_anywhere(contract: type[ConsumerContract]) -> None:
    assert messages(contract) == []
