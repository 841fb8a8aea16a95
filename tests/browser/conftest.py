"""Fixtures of the tests of the live page: a browser and a daemon for each file, a visitor for each test."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from axe_script import require_axe
from browsing import Visits, chromium, visiting
from livepage import Stage, staged

if TYPE_CHECKING:
    from playwright.sync_api import Browser


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    """A daemon with everything that its page shows. Tests of a file share it: each has backends of its own."""
    with tempfile.TemporaryDirectory(prefix="page-") as directory, staged(Path(directory)) as it:
        yield it


@pytest.fixture(scope="module")
def large() -> Iterator[Stage]:
    """The same with 10,000 backends besides."""
    with tempfile.TemporaryDirectory(prefix="page-") as directory, staged(Path(directory), many=True) as it:
        yield it


@pytest.fixture(scope="module")
def browser() -> "Iterator[Browser]":
    with chromium() as it:
        yield it


@pytest.fixture
def visit(browser: "Browser") -> Iterator[Visits]:
    """Open a page; the test fails at its end if a page did something wrong, such as a request to another host."""
    with visiting(browser) as visits:
        yield visits


@pytest.fixture(scope="session")
def axe() -> str:
    """The script of axe-core."""
    return require_axe()
