"""Fixtures of the tests of the library: directories and a registry of the test's own."""

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def own_directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISCOVERY_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("DISCOVERY_RUN_DIR", str(tmp_path / "run"))


@pytest.fixture
def records(tmp_path: Path) -> Path:
    """The directory of a file registry."""
    directory = tmp_path / "records"
    directory.mkdir()
    return directory
