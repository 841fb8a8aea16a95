"""Fixtures of the tests of the examples."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from daemons import Starter, start_daemon, tmp_path
from haproxy_example import EXAMPLES, Example
from web_client import Certificates

__all__ = ["start_daemon", "tmp_path"]


@pytest.fixture
def example(start_daemon: Starter, haproxy: Path, tmp_path: Path) -> Callable[..., Example]:
    """Return a function that prepares an example: the arguments are the file's name and the options of `Example`."""

    def prepare(name: str, **options: Any) -> Example:
        return Example((EXAMPLES / name).read_text(), start_daemon, haproxy, tmp_path, **options)

    return prepare


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    """Return an authority that issues certificates, into a directory of their own."""
    directory = tmp_path / "certificates"
    directory.mkdir()
    return Certificates(directory)
