"""The run directory's choice, and locks that one process holds at a time."""

import fcntl
import os
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from pathlib import Path

import pytest

from discovery.errors import CannotStartError
from discovery.system import claims
from discovery.system.claims import PathClaimedError, claim
from discovery.system.rundir import Lock, base_run_dir, lock, run_dir_path
from discovery.testing import cannot_run, require_program

_HOLD = "import sys; from pathlib import Path; from discovery.system.rundir import lock; "
_HOLD += "held = lock(Path(sys.argv[1]), 'the other'); print('held', flush=True); sys.stdin.read()"


def test_an_override_is_made_with_its_parents(tmp_path: Path) -> None:
    path = base_run_dir(tmp_path / "a" / "b")
    assert path == tmp_path / "a" / "b"
    assert path.is_dir()


def test_a_user_has_one_in_xdg_runtime_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1234)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert base_run_dir() == tmp_path / "discovery"


def test_a_user_without_one_has_it_among_the_user_s_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Point 26. Not in /tmp, which is cleaned, and where anybody may make it first."""
    monkeypatch.setattr(os, "geteuid", lambda: 1234)
    for name in ("XDG_RUNTIME_DIR", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert run_dir_path() == tmp_path / ".local/state/discovery/run"
    assert base_run_dir().stat().st_mode & 0o777 == 0o700


def test_another_user_s_directory_is_refused_by_name(tmp_path: Path) -> None:
    """Point 17."""
    if os.geteuid() != 0:
        cannot_run("needs another user's directory")
    os.chown(tmp_path, 65534, -1)
    with pytest.raises(
        CannotStartError, match=rf"{tmp_path} belongs to another user, nobody; choose another with --run-dir"
    ):
        base_run_dir(tmp_path)
    os.chown(tmp_path, 2_000_000_000, -1)
    with pytest.raises(CannotStartError, match="belongs to another user, uid 2000000000"):
        base_run_dir(tmp_path)


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o770, 0o757])
def test_one_that_others_can_write_to_is_refused_with_the_way_out(tmp_path: Path, mode: int) -> None:
    """Point 25."""
    path = tmp_path / "run"
    path.mkdir()
    path.chmod(mode)
    with pytest.raises(
        CannotStartError, match=rf"can be written to by others \(its mode is {mode:o}\); run `chmod go-w"
    ):
        base_run_dir(path)
    assert list(path.iterdir()) == []
    path.chmod(0o755)
    assert base_run_dir(path) == path


def test_a_link_that_another_user_may_have_made_is_refused(tmp_path: Path) -> None:
    """Point 25."""
    (tmp_path / "target").mkdir(mode=0o700)
    (tmp_path / "run").symlink_to("target")
    assert base_run_dir(tmp_path / "run") == tmp_path / "run"
    tmp_path.chmod(0o1777)
    with pytest.raises(CannotStartError, match="is a symbolic link in a directory for everybody"):
        base_run_dir(tmp_path / "run")


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


def test_a_look_whether_it_is_held_refuses_nobody(tmp_path: Path) -> None:
    """Whoever looks, `owners` for one, shares the lock for a moment; a program that keeps sharing it is told of."""
    path = tmp_path / "x.lock"
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        threading.Timer(0.05, lambda: fcntl.flock(file, fcntl.LOCK_UN)).start()
        lock(path, "x").release()
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        with pytest.raises(CannotStartError, match="x is already running as another process"):
            lock(path, "x")


def test_a_lock_whose_file_was_removed_is_locked_again_or_says_who_has_it(tmp_path: Path) -> None:
    """Point 26."""
    path = tmp_path / "run" / "edge" / "lock"
    with lock(path, "mine") as mine:
        assert not mine.renew()
        shutil.rmtree(tmp_path / "run")
        assert mine.renew()
        with pytest.raises(CannotStartError, match="already running"):
            lock(path, "the other")
        path.unlink()
        with path.open("w") as other:  # of another container, say
            fcntl.flock(other, fcntl.LOCK_EX)
            with pytest.raises(CannotStartError, match="mine is already running as another process"):
                mine.renew()
            mine.release()
            assert path.exists()  # it is not ours any more
        assert not mine.renew()


@pytest.mark.parametrize("removed", ["x.lock", "edge", "."])
def test_a_second_is_refused_although_the_file_of_the_first_was_removed(tmp_path: Path, removed: str) -> None:
    """Point 26. At once, and not only when the first has noticed."""
    path = tmp_path / "run" / "edge" / "x.lock"
    with lock(path, "mine") as mine:
        for _ in range(300):  # more than can wait to be told who it is
            away = {"x.lock": path, "edge": path.parent, ".": tmp_path / "run"}[removed]
            path.unlink() if away is path else shutil.rmtree(away)
            with pytest.raises(CannotStartError, match=f"is already running as process {os.getpid()}, .*{path}"):
                lock(path, "the other")
            assert mine.renew()
    with lock(path, "the other"):
        pass


def test_one_that_does_not_answer_keeps_its_lock_however_many_ask(tmp_path: Path) -> None:
    """As a plugin that blocks its loop while a supervisor starts another daemon again and again."""
    most = int(Path("/proc/sys/net/core/somaxconn").read_text())
    path = tmp_path / "x.lock"
    with lock(path, "mine"):
        path.unlink()
        for _ in range(min(300, most)):
            with pytest.raises(CannotStartError, match=f"is already running as process {os.getpid()}"):
                lock(path, "the other")


def test_locks_that_are_let_go_and_taken_all_the_time_are_all_claimed(tmp_path: Path) -> None:
    def take(_: int) -> list[bool]:
        claimed = []
        for _ in range(300):
            with suppress(PathClaimedError), claim(tmp_path / "x.lock") or nullcontext() as held:
                claimed.append(held is not None)
        return claimed

    with ThreadPoolExecutor(8) as threads:
        assert all(each for taken in threads.map(take, range(8)) for each in taken)


def test_a_stranger_who_has_its_name_keeps_nobody_from_a_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with claim(tmp_path / "lock") as squatter:
        assert squatter is not None
        uid = os.geteuid()
        name = claims._name(tmp_path / "lock")
        monkeypatch.setattr(claims, "_name", lambda _: name)
        monkeypatch.setattr(os, "geteuid", lambda: uid + 1)
        lock(tmp_path / "lock", "mine").release()


def test_the_same_path_below_another_root_directory_is_another_lock(tmp_path: Path) -> None:
    """As in a chroot, which has the mount namespace of the machine, and another directory at that path."""
    require_program("unshare", wheel=False)
    if subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False).returncode != 0:
        cannot_run("another root directory takes a mount namespace")
    root, here, there = tmp_path / "root", tmp_path / "here", tmp_path / "there"
    for each in (root, here, there):
        each.mkdir()
    hold = f"""
import subprocess, sys
from pathlib import Path
from discovery.system.rundir import lock
with lock(Path({str(here / "lock")!r}), "the first"):
    command = ["chroot", {str(root)!r}, sys.executable, "-c", {_HOLD!r}, {str(here / "lock")!r}]
    other = subprocess.run(command, cwd="/", input="", capture_output=True, text=True)
print(other.stdout, other.stderr)
"""
    mounts = [
        f"mkdir -p {root}{each} && mount --rbind {each} {root}{each}" for each in Path("/").iterdir() if each.is_dir()
    ]
    setup = " && ".join((*mounts, f"mount --bind {there} {root}{here}", 'exec "$@"'))
    command = ["unshare", "-rm", "sh", "-c", setup, "sh", sys.executable, "-c", hold]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (told.stdout.strip(), told.stderr) == ("held", "")
