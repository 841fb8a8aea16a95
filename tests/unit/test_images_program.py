"""The program behind `make images`, where it needs no engine."""

import subprocess
import sys
from pathlib import Path

BUILD = Path(__file__).parents[2] / "deploy/images/build.py"


def test_a_missing_engine_is_told_before_anything_is_laid_out(tmp_path: Path) -> None:
    command = [sys.executable, BUILD, "build", "--engine", "no-such-engine"]
    environment = {"PATH": "/usr/bin:/bin", "TMPDIR": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("no-such-engine not found: install docker.io or podman, and name the one that is there")
    assert list(tmp_path.iterdir()) == []
