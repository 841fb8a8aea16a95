"""A consumer, driven as the core drives it."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Generic, TypeVar

import structlog

from discovery import Addresses, AnyConsumer, Backend, Context, Snapshot, Update, diff

T = TypeVar("T", bound=AnyConsumer)


class Driver(Generic[T]):
    """A consumer in a directory: `apply` gives it backends."""

    def __init__(self, kind: type[T], config: Mapping[str, Any], run_dir: Path) -> None:
        self.applies_requested = 0
        self.run_dir = run_dir
        context = Context("test", run_dir, structlog.get_logger("test"), self._request, (), run_dir.parent / "state")
        self.consumer = kind(kind.Config.model_validate(config), context)
        self.previous: Snapshot | None = None
        self.addresses: Addresses = {}
        """The addresses of host names."""

    def _request(self) -> None:
        self.applies_requested += 1

    def update(self, *backends: Backend, operator_request: bool = False) -> Update:
        snapshot = Snapshot.of(1, backends)
        changes = diff(self.previous, snapshot)
        return Update(snapshot, self.previous, changes, self.addresses, operator_request=operator_request)

    async def apply(self, *backends: Backend, operator_request: bool = False) -> None:
        update = self.update(*backends, operator_request=operator_request)
        await self.consumer.apply(update)
        self.previous = update.snapshot


@asynccontextmanager
async def driven(kind: type[T], config: Mapping[str, Any], directory: Path) -> AsyncIterator[Driver[T]]:
    """Set a consumer up for a block."""
    run_dir = directory / "run"
    run_dir.mkdir(mode=0o700, exist_ok=True)
    driver = Driver(kind, config, run_dir)
    try:
        await driver.consumer.setup()
        yield driver
    finally:
        await driver.consumer.teardown()
