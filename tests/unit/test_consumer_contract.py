"""The consumer contract accepts a sound consumer, and every way to be unsound fails one of its tests."""

import json
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from discovery import Consumer, Context, PluginConfig, Update
from discovery.plugin import AnyConsumer
from discovery.testing import ConsumerContract


class Writer(Consumer[PluginConfig]):
    """Writes every backend's address into a file."""

    @property
    def path(self) -> Path:
        return self.context.run_dir / "backends.json"

    async def apply(self, update: Update) -> None:
        self.path.write_text(json.dumps([backend.address for backend in update.snapshot.backends()]))

    async def preview(self, update: Update) -> str:
        return str(update.changes)


class Contract(ConsumerContract):
    consumer = Writer

    def sabotage(self, run_dir: Path) -> AbstractContextManager[None]:
        @contextmanager
        def in_the_way() -> Iterator[None]:
            (run_dir / "backends.json").unlink()
            (run_dir / "backends.json").mkdir()
            yield
            (run_dir / "backends.json").rmdir()

        return in_the_way()


class TestContract(Contract):
    pass


class Eager(Writer):
    def __init__(self, config: PluginConfig, context: Context) -> None:
        super().__init__(config, context)
        Path("/etc/hostname").exists()
        with Path("/proc/self/stat").open() as file:
            file.read()


class Appender(Writer):
    async def apply(self, update: Update) -> None:
        with self.path.open("a") as file:
            file.write(str(update.snapshot.revision))


class Incremental(Writer):
    async def apply(self, update: Update) -> None:
        known = json.loads(self.path.read_text()) if self.path.exists() else []
        new = [backend.address for backend in update.changes.added]
        self.path.write_text(json.dumps(sorted({*known, *new})))


class Forgetful(Writer):
    _applied: object = None

    async def apply(self, update: Update) -> None:
        if self._applied != update.snapshot:
            self._applied = update.snapshot
            await super().apply(update)


class Fragile(Writer):
    _file: object = None

    async def setup(self) -> None:
        self._file = self.path

    async def teardown(self) -> None:
        assert self._file is not None


class Hasty(Writer):
    async def preview(self, update: Update) -> str:
        self.context.run_dir.mkdir()
        return ""


@pytest.mark.parametrize(
    ("unsound", "test"),
    [
        (Eager, "test_making_one_touches_nothing"),
        (Appender, "test_applying_twice_is_applying_once"),
        (Incremental, "test_the_way_to_a_state_does_not_matter"),
        (Forgetful, "test_an_apply_after_a_failed_one_sets_everything_right"),
        (Fragile, "test_tearing_down_is_safe_without_a_setup_and_after_one"),
        (Hasty, "test_a_preview_writes_nothing"),
    ],
)
def test_an_unsound_consumer_is_found(unsound: type[AnyConsumer], test: str) -> None:
    contract = type("Unsound", (Contract,), {"consumer": unsound})()
    with pytest.raises((AssertionError, FileNotFoundError)):
        getattr(contract, test)()
