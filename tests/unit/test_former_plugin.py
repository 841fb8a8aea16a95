"""A plugin and its contracts, written for the modules and names that were there before, run unchanged.

Nothing here is brought up to date: it is what an author outside has.
"""

import asyncio
import json
import warnings
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import pytest
from pydantic import Field

from discovery import Consumer, Context, Health, PluginConfig, Provider, Update, hookimpl
from discovery.addresses import announceable, primary_address
from discovery.checks import Check, Outcome, Verdict
from discovery.codec import key_of, validate
from discovery.errors import ApplyError, DiscoveryError
from discovery.model import Backend, Snapshot, State
from discovery.plugin import AnyConsumer, AnyProvider, Candidate, Inventory
from discovery.probes import CheckSettings
from discovery.testing import ConsumerContract, ProviderContract, backend, eventually_sync, free_port, snapshot

with warnings.catch_warnings(record=True) as warned:
    warnings.simplefilter("always")
    from discovery.backoff import delays
    from discovery.files import FileWatch, write_atomically
    from discovery.listening import by, listening, owners
    from discovery.terminal import printable


class FileConfig(PluginConfig):
    name: str = Field("backends.json", description="The file in the run directory")


class FileConsumer(Consumer[FileConfig]):
    Config = FileConfig

    def __init__(self, config: FileConfig, context: Context) -> None:
        super().__init__(config, context)
        self._watch: FileWatch | None = None

    @property
    def path(self) -> Path:
        return self.context.run_dir / self.config.name

    async def setup(self) -> None:
        self._watch = FileWatch([self.path], self.context.request_apply)

    async def apply(self, update: Update) -> None:
        addresses = [each.address for each in update.snapshot.backends() if each.state is State.ACTIVE]
        try:
            write_atomically(self.path, json.dumps(addresses).encode())
        except OSError as error:
            raise ApplyError(f"{self.path} cannot be written: {printable(str(error))}") from None

    async def preview(self, update: Update) -> str:
        return str(update.changes)

    async def health(self) -> Health:
        return Health(self.path.exists(), "the file is there")

    async def teardown(self) -> None:
        if self._watch is not None:
            self._watch.close()


class DirectoryConfig(PluginConfig):
    directory: Path
    check: CheckSettings = CheckSettings(type="tcp")


class Passing:
    async def __call__(self, backend: Backend) -> Outcome:
        return Outcome(Verdict.PASSING)

    def __hash__(self) -> int:
        return 1

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Passing)


class DirectoryProvider(Provider[DirectoryConfig]):
    """Each file is a backend."""

    Config = DirectoryConfig

    async def discover(self) -> AsyncGenerator[Inventory, None]:
        pauses = delays(0.05, 0.1)
        while True:
            names = sorted(path.name for path in self.config.directory.iterdir())
            backends = (validate(Backend("web", name, "127.0.0.1", 80 + index)) for index, name in enumerate(names))
            yield Inventory(tuple(Candidate(each, (Check(Passing()),)) for each in backends))
            await asyncio.sleep(next(pauses))


@hookimpl
def discovery_register_consumers(register: Callable[[str, type[AnyConsumer]], None]) -> None:
    register("file", FileConsumer)


@hookimpl
def discovery_register_providers(register: Callable[[str, type[AnyProvider]], None]) -> None:
    register("directory", DirectoryProvider)


class TestFileConsumer(ConsumerContract):
    consumer = FileConsumer
    config: ClassVar[dict[str, Any]] = {"name": "other.json"}
    snapshots: ClassVar[tuple[Snapshot, Snapshot]] = (
        snapshot(backend(id="x"), revision=3),
        snapshot(backend(id="y", port=1), backend(id="z", state=State.DRAINING), revision=4),
    )

    def world(self, run_dir: Path) -> object:
        path = run_dir / "other.json"
        return json.loads(path.read_bytes()) if path.exists() else None

    @contextmanager
    def sabotage(self, run_dir: Path) -> Iterator[None]:
        (run_dir / "other.json").unlink(missing_ok=True)
        (run_dir / "other.json").mkdir()
        yield
        (run_dir / "other.json").rmdir()


class TestDirectoryProvider(ProviderContract):
    provider = DirectoryProvider

    @pytest.fixture(autouse=True)
    def _directory(self, tmp_path: Path) -> None:
        self.directory = tmp_path / "directory"
        self.directory.mkdir()
        self.config = {"directory": self.directory}

    def arrange(self, world: int) -> None:
        (self.directory / "a").touch()
        second = self.directory / "b"
        second.touch() if world else second.unlink(missing_ok=True)

    @contextmanager
    def blind(self) -> Iterator[None]:
        elsewhere = self.directory.with_name("elsewhere")
        self.directory.rename(elsewhere)
        yield
        elsewhere.rename(self.directory)


def test_each_import_from_a_former_module_warns_once() -> None:
    assert sorted(str(each.message).split()[0] for each in warned) == [
        "discovery.backoff.delays",
        "discovery.files.FileWatch",
        "discovery.files.write_atomically",
        "discovery.listening.by",
        "discovery.listening.listening",
        "discovery.listening.owners",
        "discovery.terminal.printable",
    ]
    assert {(each.category, each.filename) for each in warned} == {(DeprecationWarning, __file__)}


def test_its_other_imports_work() -> None:
    assert by(owners(listening("127.0.0.1", free_port()))) == ""
    assert key_of(backend(id="a")) == "web/a"
    assert primary_address(4) is None or announceable(str(primary_address(4)))
    eventually_sync(lambda: True)
    assert issubclass(ApplyError, DiscoveryError)
