"""What a killed run left is removed by the next run, which trusts nothing that another user may have written."""

import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from docker_lab import linked
from docker_lab.leftovers import LabDirectory, sweep

pytestmark = [pytest.mark.docker, pytest.mark.usefixtures("_requirements")]

NOBODY = 65534


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty directory, which is this process' directory for temporary files."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@pytest.fixture
def link() -> Iterator[str]:
    """Return the name of a link of this machine that belongs to no lab."""
    name = f"own{secrets.token_hex(3)}"
    subprocess.run(["ip", "link", "add", name, "type", "veth", "peer", "name", f"{name}p"], check=True)
    yield name
    subprocess.run(["ip", "link", "delete", name], check=True)


def links() -> set[str]:
    return {each.name for each in Path("/sys/class/net").iterdir()}


def left(temporary: Path, name: str = "dlab-left", mode: int = 0o700) -> Path:
    """Make the directory of a run that was killed."""
    directory = temporary / name
    directory.mkdir()
    directory.chmod(mode)
    return directory


def test_a_killed_runs_directory_is_removed(temporary: Path) -> None:
    directory = left(temporary)
    (directory / "name").write_text(directory.name)
    sweep()
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize(("owner", "mode"), [(NOBODY, 0o700), (0, 0o770), (0, 0o707)])
def test_a_directory_that_others_can_write_is_left_alone(temporary: Path, owner: int, mode: int) -> None:
    directory = left(temporary, mode=mode)
    proof = temporary / "proof"
    (directory / "removal").write_text(f'["touch", "{proof}"]')
    (directory / "containers.conf").touch()
    os.chown(directory, owner, owner)
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)", f"{directory}/"]) as own:
        sweep()
        assert own.poll() is None
        own.kill()
    assert not proof.exists()
    assert {each.name for each in directory.iterdir()} == {"removal", "containers.conf"}


def test_no_command_of_a_file_is_run(temporary: Path) -> None:
    proof = temporary / "proof"
    (left(temporary) / "removal").write_text(f'["touch", "{proof}"]')
    sweep()
    assert list(temporary.iterdir()) == []


def test_a_link_to_a_directory_is_left_alone(temporary: Path) -> None:
    place = temporary / "place"
    place.mkdir(mode=0o700)
    (temporary / "dlab-link").symlink_to(place)
    sweep()
    assert list(place.iterdir()) == []


def test_a_lock_that_is_a_link_truncates_nothing(temporary: Path, caplog: pytest.LogCaptureFixture) -> None:
    victim = temporary / "victim"
    victim.write_text("kept")
    (left(temporary) / "lock").symlink_to(victim)
    sweep()
    assert victim.read_text() == "kept"
    assert "dlab-left of an earlier run cannot be removed" in caplog.text


def test_a_name_that_no_lab_has_is_ignored(temporary: Path, link: str) -> None:
    (left(temporary) / "name").write_text(link)
    sweep()
    assert list(temporary.iterdir()) == []
    assert link in links()


@pytest.mark.parametrize("name", ["", "*", "../..", "dlab-other", "dlab7\n"])
def test_a_directory_with_a_useless_name_is_removed(temporary: Path, name: str) -> None:
    (left(temporary) / "name").write_text(name)
    sweep()
    assert list(temporary.iterdir()) == []


def test_what_cannot_be_removed_keeps_nothing_else(temporary: Path, caplog: pytest.LogCaptureFixture) -> None:
    (left(temporary, "dlab-bad") / "name").mkdir()
    for number in range(5):
        left(temporary, f"dlab-{number}")
    sweep()
    assert [each.name for each in temporary.iterdir()] == ["dlab-bad"]
    assert "dlab-bad of an earlier run cannot be removed" in caplog.text


def test_a_new_directory_belongs_to_its_user_alone_and_is_swept_by_nobody(temporary: Path) -> None:
    place = LabDirectory()
    assert place.path.stat().st_mode & 0o777 == 0o700
    sweep()
    assert place.path.exists()
    place.remove()
    assert list(temporary.iterdir()) == []


def test_a_name_is_written_whole(temporary: Path) -> None:
    place = LabDirectory()
    place.name = "dlab1"
    before = (place.path / "name").stat().st_ino
    place.name = "dlab2"
    assert (place.path / "name").stat().st_ino != before  # another file, which was complete before
    place.name = place.path.name
    place.remove()
    assert list(temporary.iterdir()) == []


def test_a_lab_without_a_free_number_takes_no_other_labs(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subprocess.run(["ip", "link", "add", "dlab600", "type", "veth", "peer", "name", "dlab600n"], check=True)
    monkeypatch.setattr(linked.random.SystemRandom, "sample", lambda *_: [600] * 50)
    try:
        with pytest.raises(RuntimeError, match="no free number"), linked.DockerEngine():
            pass
        assert "dlab600" in links()
    finally:
        subprocess.run(["ip", "link", "delete", "dlab600"], check=True)
    assert list(temporary.iterdir()) == []
