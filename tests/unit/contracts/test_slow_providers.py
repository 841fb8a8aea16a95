"""The contract accepts providers whose `discover` blocks, in less than 20 s each."""

import time
from collections.abc import Iterator

import pytest
from sound_providers import Directory, DirectoryContract
from wrong_plugins import messages

from discovery import Inventory
from discovery.testing import within


class LooksLate(Directory):
    def discover(self) -> Iterator[Inventory]:  # type: ignore[override]  # an author chooses once for a class
        while True:
            time.sleep(0.6)
            yield self.look()


class LooksAtOnce(Directory):
    def discover(self) -> Iterator[Inventory]:  # type: ignore[override]
        while True:
            yield self.look()
            time.sleep(1)


@pytest.mark.exhaustive
@pytest.mark.parametrize("provider", [LooksLate, LooksAtOnce])
def test_a_provider_that_blocks_is_accepted(provider: type[Directory]) -> None:
    begun = time.monotonic()
    assert messages(DirectoryContract, provider=provider) == []
    assert time.monotonic() - begun < within(20)
