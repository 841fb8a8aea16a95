"""The contract accepts providers that are right and unusual, in less than 20 s each."""

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Iterator
from typing import ClassVar

import pytest
from sound_providers import Directory, DirectoryContract, Options, YieldsEachLook
from wrong_plugins import messages

from discovery import Inventory
from discovery.testing import within


class BlocksBeforeEachInventory(Directory):
    def discover(self) -> Iterator[Inventory]:  # type: ignore[override]  # an author chooses once for a class
        while True:
            time.sleep(1)
            yield self.look()


class BlocksAfterEachInventory(Directory):
    def discover(self) -> Iterator[Inventory]:  # type: ignore[override]
        while True:
            yield self.look()
            time.sleep(1)


class WaitsBeforeEachInventory(Directory):
    async def discover(self) -> AsyncGenerator[Inventory, None]:
        while True:
            await asyncio.sleep(1)
            yield self.look()


class WaitsAfterEachInventory(YieldsEachLook):
    pause = 1.0


class YieldsWhatDiffersEachSecond(Directory):
    pause = 1.0


class BlocksAndAdopts(BlocksBeforeEachInventory):
    async def reconfigure(self, config: Options) -> bool:
        self.config = config
        return True


class SetsUpSlowly(Directory):
    async def setup(self) -> None:
        time.sleep(1)  # noqa: ASYNC251 - it may


class SharesAThread(Directory):
    """Starts a thread with the first instance of the process, as libraries do."""

    shared: ClassVar[threading.Thread | None] = None
    over: ClassVar[threading.Event]

    async def setup(self) -> None:
        if self.shared is None:
            shared = SharesAThread.shared = threading.Thread(target=self.over.wait, daemon=True)
            shared.start()


SLOW = (
    BlocksBeforeEachInventory,
    BlocksAfterEachInventory,
    WaitsBeforeEachInventory,
    WaitsAfterEachInventory,
    YieldsWhatDiffersEachSecond,
    BlocksAndAdopts,
    SetsUpSlowly,
)


@pytest.mark.exhaustive
@pytest.mark.parametrize("provider", SLOW)
def test_a_slow_provider_is_accepted(provider: type[Directory]) -> None:
    begun = time.monotonic()
    assert messages(DirectoryContract, provider=provider) == []
    assert time.monotonic() - begun < within(20)


def test_what_exists_once_in_a_process_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SharesAThread, "over", threading.Event(), raising=False)
    monkeypatch.setattr(SharesAThread, "shared", None)
    try:
        assert messages(DirectoryContract, provider=SharesAThread) == []
    finally:
        SharesAThread.over.set()
