"""The run directory's choice, and locks that one process holds at a time."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from discovery.errors import CannotStartError
from discovery.rundir import Lock, base_run_dir, lock

_HOLD = "import sys; from pathlib import Path; from discovery.rundir import lock; "
_HOLD += "held = lock(Path(sys.argv[1]), 'the other'); print('held', flush=True); sys.stdin.read()"


def test_an_override_is_made_with_its_parents(tmp_path: Path) -> None:
    path = base_run_dir(tmp_path / "a" / "b")
    assert path == tmp_path / "a" / "b"
    assert path.is_dir()


def test_a_user_has_one_in_xdg_runtime_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1234)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert base_run_dir() == tmp_path / "discovery"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs another user's directory")
def test_another_users_directory_in_tmp_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    uid = 2_000_000_000 + os.getpid()
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    path = Path(f"/tmp/discovery-{uid}")
    path.mkdir(mode=0o700)
    try:
        with pytest.raises(CannotStartError, match="written to by others"):
            base_run_dir()
        os.chown(path, uid, -1)
        assert base_run_dir() == path
        path.chmod(0o777)
        with pytest.raises(CannotStartError, match="written to by others"):
            base_run_dir()
    finally:
        path.rmdir()


def test_a_directory_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CannotStartError, match="--run-dir") as caught:
        base_run_dir(tmp_path / "file" / "below")
    assert "\n" not in str(caught.value)


def test_the_second_is_refused_by_name_until_the_first_dies(tmp_path: Path) -> None:
    path = tmp_path / "locks" / "x.lock"
    with subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(CannotStartError, match=f"mine is already running as process {other.pid}.*{path}"):
            lock(path, "mine")
        other.kill()
        other.wait()
        assert path.exists()
        with lock(path, "mine"):
            assert path.read_text() == f"{os.getpid()}\n"
    assert not path.exists()


def test_however_many_try_at_once_one_holds_it(tmp_path: Path) -> None:
    path = tmp_path / "x.lock"
    holders: list[Lock] = []

    def contend(_: int) -> int:
        won = 0
        for _ in range(300):
            try:
                held = lock(path, "x")
            except CannotStartError:
                continue
            holders.append(held)
            assert holders == [held]
            won += 1
            holders.remove(held)
            held.release()
        return won

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(contend, range(4))) > 0
