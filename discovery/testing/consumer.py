"""The contract of consumers: derive from `ConsumerContract`, name your class, and run pytest."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import AbstractContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar

import structlog

from discovery.model import Snapshot, diff
from discovery.plugin import AnyConsumer, Context, Update
from discovery.testing.builders import backend, snapshot
from discovery.testing.recorder import Recorder, touched_by


class ConsumerContract:
    """The behaviour that the core relies on, as pytest tests.

    A derived class sets `consumer`, and `config` if the consumer needs options. The tests call the methods as the core
    does, on one event loop.
    """

    consumer: ClassVar[type[AnyConsumer]]
    """The class under test."""
    config: ClassVar[Mapping[str, Any]] = {}
    """The consumer's options, as in the configuration file."""
    snapshots: ClassVar[tuple[Snapshot, Snapshot]] = (
        snapshot(backend(id="a"), revision=1),
        snapshot(backend(id="b", port=8081), backend(id="c", port=8082), revision=2),
    )
    """Two states of the registry, for which `world` returns different values."""

    def world(self, run_dir: Path) -> object:
        """Return the consumer's effect, comparable by `==`. By default the files in and below `run_dir`, by path."""
        return {
            str(path.relative_to(run_dir)): path.read_bytes() for path in sorted(run_dir.rglob("*")) if path.is_file()
        }

    def sabotage(self, run_dir: Path) -> AbstractContextManager[object] | None:
        """Return a context in which `apply` fails for the instance in `run_dir`. None, the default, skips the tests."""
        return None

    def test_making_one_touches_nothing(self) -> None:
        assert touched_by(self._make) == []

    def test_applying_twice_is_applying_once(self) -> None:
        async def check(consumer: AnyConsumer, run_dir: Path) -> None:
            for state in self.snapshots:
                await consumer.apply(_update(None, state))
                once = self.world(run_dir)
                await consumer.apply(_update(None, state))
                await consumer.apply(_update(state, state))
                assert self.world(run_dir) == once

        self._run(check)

    def test_the_way_to_a_state_does_not_matter(self) -> None:
        first, second = self.snapshots

        async def check(consumer: AnyConsumer, run_dir: Path) -> None:
            await consumer.apply(_update(None, second))
            straight = self.world(run_dir)
            await consumer.apply(_update(second, first))
            assert self.world(run_dir) != straight
            await consumer.apply(_update(first, second))
            assert self.world(run_dir) == straight

        self._run(check)

    def test_an_apply_after_a_failed_one_sets_everything_right(self) -> None:
        import pytest

        first, second = self.snapshots

        async def check(consumer: AnyConsumer, run_dir: Path) -> None:
            await consumer.apply(_update(None, second))
            right = self.world(run_dir)
            await consumer.apply(_update(second, first))
            broken = self.sabotage(run_dir)
            if broken is None:
                pytest.skip("no sabotage() to make apply fail")
            with broken, pytest.raises(Exception):  # noqa: B017, PT011 - whatever it is, the core tries again
                await consumer.apply(_update(first, second))
            await consumer.apply(_update(first, second))
            assert self.world(run_dir) == right

        self._run(check)

    def test_tearing_down_is_safe_without_a_setup_and_after_one(self) -> None:
        async def check(run_dir: Path) -> None:
            await self._make(run_dir).teardown()
            consumer = self._make(run_dir)
            await consumer.setup()
            await consumer.teardown()

        with tempfile.TemporaryDirectory() as directory:
            asyncio.run(check(Path(directory)))

    def test_health_can_be_asked_for_at_any_time(self) -> None:
        async def check(consumer: AnyConsumer, run_dir: Path) -> None:
            before = await consumer.health()
            await consumer.apply(_update(None, self.snapshots[0]))
            after = await consumer.health()
            assert isinstance(before.detail, str)
            assert after.ok, after.detail

        self._run(check)

    def test_a_preview_writes_nothing(self) -> None:
        import pytest

        async def check(run_dir: Path) -> None:
            with Recorder() as recorder:
                try:
                    await self._make(run_dir).preview(_update(None, self.snapshots[0]))
                except NotImplementedError:
                    pytest.skip("the consumer has no preview")
            assert [event for event in recorder.events if event.startswith("write ")] == []

        with tempfile.TemporaryDirectory() as directory:
            asyncio.run(check(Path(directory) / "not there"))

    def test_validating_finds_no_fault_and_makes_no_run_directory(self) -> None:
        async def check(run_dir: Path) -> None:
            for state in (Snapshot.of(0, ()), self.snapshots[0]):
                validation = await self._make(run_dir).validate(_update(None, state))
                assert validation.faults == ()
            assert not run_dir.exists()

        with tempfile.TemporaryDirectory() as directory:
            asyncio.run(check(Path(directory) / "not there"))

    def _make(self, run_dir: Path, state_dir: Path | None = None) -> AnyConsumer:
        config = self.consumer.Config.model_validate(self.config)
        log = structlog.get_logger("contract")
        return self.consumer(config, Context("contract", run_dir, log, state_dir=state_dir or run_dir / "state"))

    def _run(self, check: Callable[[AnyConsumer, Path], Coroutine[Any, Any, None]]) -> None:
        async def run() -> None:
            async with self._started() as (consumer, run_dir):
                await check(consumer, run_dir)

        asyncio.run(run())

    @asynccontextmanager
    async def _started(self) -> AsyncIterator[tuple[AnyConsumer, Path]]:
        with tempfile.TemporaryDirectory() as directory, tempfile.TemporaryDirectory() as state:
            consumer = self._make(Path(directory), Path(state, "contract"))
            try:
                await consumer.setup()
                yield consumer, Path(directory)
            finally:
                await consumer.teardown()


def _update(previous: Snapshot | None, state: Snapshot) -> Update:
    return Update(state, previous, diff(previous, state))
