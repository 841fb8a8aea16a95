"""Fixtures of the tests of the runtime API."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def path() -> Iterator[Path]:
    """Return a path that is short enough for a socket."""
    with tempfile.TemporaryDirectory(prefix="hx-") as directory:
        yield Path(directory, "s.sock")
