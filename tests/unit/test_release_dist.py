"""What `make dist` does before it builds anything: which directory it empties, and which time its files state."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from release import dist, versions
from release.commands import ReleaseError
from release.times import commit_time


@pytest.mark.parametrize("name", ["notes.txt", ".git", "SHA256SUMS/x"])
def test_a_directory_that_no_earlier_run_has_made_is_left_alone(tmp_path: Path, name: str) -> None:
    kept = tmp_path / name
    kept.parent.mkdir(exist_ok=True)
    kept.write_text("precious")
    with pytest.raises(ReleaseError, match="is not empty, and has no file SHA256SUMS of an earlier run"):
        dist.empty(tmp_path)
    assert kept.read_text() == "precious"


def test_a_file_is_no_target(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    with pytest.raises(ReleaseError, match="file is no directory"):
        dist.empty(tmp_path / "file")


def test_the_directory_of_an_earlier_run_is_emptied_also_if_that_run_has_failed(tmp_path: Path) -> None:
    target = tmp_path / "new/dist"
    dist.empty(target)
    (target / "a.whl").write_text("of a run that ended here")
    dist.empty(target)
    assert [path.name for path in target.iterdir()] == [dist.SUMS]


def test_the_command_names_the_directory_and_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("precious")
    command = [sys.executable, "-m", "release.dist"]
    done = subprocess.run([*command, tmp_path], capture_output=True, text=True, check=False, cwd=versions.ROOT)
    assert done.returncode == 1
    assert done.stderr.startswith(f"make dist: {tmp_path} is not empty")
    assert (tmp_path / "notes.txt").exists()
    told = subprocess.run([*command, "--help"], capture_output=True, text=True, check=True, cwd=versions.ROOT).stdout
    assert "SHA256SUMS" in told


def test_files_state_1980_without_history_and_without_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    assert commit_time(tmp_path) == 315532800
    monkeypatch.setenv("PATH", str(tmp_path))
    assert commit_time(versions.ROOT) == 315532800


def test_files_state_the_time_of_the_commit_or_the_one_that_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    git = ["git", "-C", tmp_path, "-c", "user.name=me", "-c", "user.email=me@example.com"]
    dates = {"GIT_COMMITTER_DATE": "1760000000 +0000"}
    subprocess.run([*git, "init", "--quiet"], check=True)
    subprocess.run([*git, "commit", "--quiet", "--allow-empty", "-m", "x"], check=True, env={**os.environ, **dates})
    assert commit_time(tmp_path) == 1760000000
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "7")
    assert commit_time(tmp_path) == 7
