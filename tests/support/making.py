"""Programs that a test needs, from a command of the Makefile or from an installed wheel."""

import os
from importlib.util import find_spec
from pathlib import Path

import pytest

from discovery.testing import cannot_run, require_program


def require_made(name: str, place: Path | None, command: str) -> Path:
    """The program `name` at `place`, or on PATH. `command` makes the program.

    Without the program the running test is skipped, or fails if CI is set.
    """
    if place is not None and os.access(place, os.X_OK):
        return place
    try:
        return require_program(name, wheel=False)
    except (pytest.fail.Exception, pytest.skip.Exception) as outcome:
        raise type(outcome)(f"the program {name!r} is not there: run `{command}`") from None


def require_module(name: str) -> None:
    """Skip the running test, or fail if CI is set, without the module `name` of a wheel of the extra `dev`."""
    if find_spec(name) is None:
        cannot_run(f"the module {name!r} is not there: install the extra 'dev'")
