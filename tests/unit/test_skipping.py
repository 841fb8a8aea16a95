"""A test that cannot run is skipped where people work, and a red run in CI."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from discovery.testing import cannot_run, within

CONFTEST = Path(__file__).parents[2] / "conftest.py"


MODULE = "import pytest\npytest.importorskip('no_such_module')\n"
TEST = "import pytest\ndef test_it(): pytest.skip()\n"


@pytest.mark.costly
@pytest.mark.parametrize(
    ("ci", "status", "workers", "skipping"),
    [
        ("1", 1, "0", MODULE),
        ("", 0, "1", TEST),
        pytest.param("", 0, "0", TEST, marks=pytest.mark.exhaustive),
        pytest.param("1", 1, "0", TEST, marks=pytest.mark.exhaustive),
        pytest.param("1", 1, "1", MODULE, marks=pytest.mark.exhaustive),
        pytest.param("", 0, "0", MODULE, marks=pytest.mark.exhaustive),
        pytest.param("1", 1, "1", TEST, marks=pytest.mark.exhaustive),
        pytest.param("", 0, "1", MODULE, marks=pytest.mark.exhaustive),
    ],
)
def test_skipped_is_red_in_ci_alone(ci: str, status: int, workers: str, skipping: str, tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(CONFTEST.read_text())
    (tmp_path / "test_passing.py").write_text("def test_other(): pass\n")
    (tmp_path / "test_skipping.py").write_text(skipping)
    options = [
        "-n",
        workers,
        "-p",
        "no:cacheprovider",
        "-c",
        os.devnull,
        "-o",
        f"pythonpath={CONFTEST.parent}/tests/support",
        "--rootdir",
        str(tmp_path),
        "--confcutdir",
        str(tmp_path),
    ]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, str(tmp_path)],
        env={**os.environ, "CI": ci},
        capture_output=True,
        text=True,
        timeout=within(110),
        check=False,
    )
    assert "1 passed, 1 skipped" in done.stdout, done.stdout + done.stderr
    assert done.returncode == status, done.stdout


@pytest.mark.parametrize(("ci", "outcome"), [("", pytest.skip.Exception), ("1", pytest.fail.Exception)])
def test_a_test_that_cannot_run_fails_in_ci(
    ci: str, outcome: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CI", ci)
    with pytest.raises(outcome, match="it takes root"):
        cannot_run("it takes root")
