"""Fixtures of the tests of what `deploy` ships: an engine for each test process, with the images of `make images`."""

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from docker_fixtures import *  # noqa: F403 - its __all__ has the fixtures and the hook
from docker_lab import DockerEngine

from discovery.testing import require_program

BUILD = Path(__file__).parents[2] / "deploy/images/build.py"


@pytest.fixture(scope="session")
def layout(tmp_path_factory: pytest.TempPathFactory, _requirements: None) -> Iterator[Path]:
    """Return the root file systems of the images, laid out once for all processes that test."""
    for program in ("haproxy", "tini"):
        require_program(program, wheel=False)
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    directory = shared / "images"
    with (shared / "images.users").open("w") as users:
        with _locked(shared / "images.lock"):
            if not directory.exists():
                part = shared / "images.part"
                shutil.rmtree(part, ignore_errors=True)  # of a process that failed, so that this one tells the reason
                # Whoever runs `make images` may have a strict umask; the images' users read the files all the same.
                subprocess.run([sys.executable, BUILD, "layout", part], check=True, umask=0o077)
                part.rename(directory)
            fcntl.flock(users, fcntl.LOCK_SH)
        yield directory
        with _locked(shared / "images.lock"), suppress(BlockingIOError):  # another process uses it
            fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(directory)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.fixture(scope="session")
def _images(layout: Path, _engine: DockerEngine) -> None:
    subprocess.run(
        [sys.executable, BUILD, "build", "--prefix", "polvi/", "--layout", layout],
        env={**os.environ, "DOCKER_HOST": _engine.url},
        check=True,
    )


@pytest.fixture
def images(_images: None, docker_engine: DockerEngine) -> DockerEngine:
    """Return a running dockerd with the images of `make images PREFIX=polvi/`, and without containers."""
    return docker_engine
