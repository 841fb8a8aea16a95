"""Programs that a release runs: without this machine's settings of Python, pip's notices and discovery."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

_FOREIGN = ("DISCOVERY_", "PYTHON", "VIRTUAL_ENV", "PEX")


class ReleaseError(Exception):
    """A step of a release has failed; the message has the command and the end of its output."""


def environment(**more: str) -> dict[str, str]:
    """Return the environment of this process without what would reach into an empty one, and with `more`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}
    return {**kept, "DISCOVERY_CONFIG": os.devnull, "PIP_DISABLE_PIP_VERSION_CHECK": "1", **more}


def run(*command: str | Path, cwd: Path | None = None, **more: str) -> str:
    """Run `command` with `environment(**more)`, and return its output. Raises ReleaseError."""
    done = subprocess.run(
        [str(each) for each in command],
        cwd=cwd,
        env=environment(**more),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        said = f"{done.stdout}\n{done.stderr}".strip()[-4000:]
        raise ReleaseError(f"exit code {done.returncode} of {' '.join(map(str, command))}:\n{said}")
    return done.stdout


def module(name: str, *arguments: str | Path, **more: str) -> str:
    """Run the module `name` of this Python's environment. Raises ReleaseError."""
    return run(sys.executable, "-m", name, *arguments, cwd=None, **more)


def python(directory: Path) -> Path:
    """Return the Python of the virtual environment in `directory`."""
    return directory / "bin" / "python"


def empty_environment(directory: Path, *requirements: str | Path) -> Path:
    """Make a virtual environment with nothing but `requirements`, and return its Python. Raises ReleaseError."""
    module("venv", directory)
    install(python(directory), *requirements)
    return python(directory)


def install(python: Path, *requirements: str | Path) -> None:
    """Install `requirements` from files and the package index, and check that all fit. Raises ReleaseError."""
    run(python, "-m", "pip", "install", "--quiet", *requirements)
    run(python, "-m", "pip", "check")


def names(paths: Sequence[Path]) -> str:
    """Return the file names of `paths` for a line of output."""
    return ", ".join(path.name for path in paths)
