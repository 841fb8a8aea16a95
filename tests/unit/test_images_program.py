"""The program behind `make images`, where it needs no engine."""

import subprocess
import sys
from pathlib import Path

import pytest

from discovery.testing import require_program

BUILD = Path(__file__).parents[2] / "deploy/images/build.py"


def test_a_missing_engine_is_told_before_anything_is_laid_out(tmp_path: Path) -> None:
    command = [sys.executable, BUILD, "build", "--engine", "no-such-engine"]
    environment = {"PATH": "/usr/bin:/bin", "TMPDIR": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("no-such-engine not found: install docker.io or podman, and name the one that is there")
    assert list(tmp_path.iterdir()) == []


def test_an_engine_that_does_not_answer_is_told_before_anything_is_laid_out(tmp_path: Path) -> None:
    docker = require_program("docker", wheel=False)
    nowhere = tmp_path / "docker.sock"
    command = [sys.executable, BUILD, "build", "--engine", docker]
    environment = {"PATH": "/usr/bin:/bin", "TMPDIR": str(tmp_path), "DOCKER_HOST": f"unix://{nowhere}"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 1
    reason, line = done.stderr.splitlines()
    assert str(nowhere) in reason
    assert line.startswith(f"{docker} does not answer: start ")
    assert list(tmp_path.iterdir()) == []


def test_an_image_has_no_package_that_is_installed_beside_the_standard_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a Python that pyenv has built, whose packages are the user's own."""
    monkeypatch.syspath_prepend(str(BUILD.parent))
    import layout

    library = tmp_path / "python3"
    for name in ("json/decoder.py", "site-packages/private/secret.py", "dist-packages/mine.py", "test/support.py"):
        (library / name).parent.mkdir(parents=True)
        (library / name).touch()
    layout.copy_library(library, tmp_path / "image")
    copied = [path.relative_to(tmp_path / "image") for path in (tmp_path / "image").rglob("*") if path.is_file()]
    assert copied == [Path("json/decoder.py")]
