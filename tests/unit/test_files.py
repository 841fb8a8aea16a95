"""Files are replaced whole or not at all, and what happens to them is told."""

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from discovery.files import FileWatch, TreeWatch, write_atomically
from discovery.testing import eventually_sync


class Told:
    """Counts calls, from any thread."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._condition: Callable[[], object] = lambda: True
        self._early = False

    def __call__(self) -> None:
        self._early |= not self._condition()
        self._event.set()

    def after(self, act: Callable[[], object]) -> None:
        self._event.clear()
        act()
        assert self._event.wait(10), "nothing was told"

    def never_before(self, condition: Callable[[], object]) -> None:
        """From here on, nothing may be told before `condition` holds."""
        self._event.clear()
        self._condition = condition

    def was_too_early(self) -> bool:
        """Whether something was, given a moment to show itself. A late thread can hide it, never invent it."""
        self._event.wait(0.3)
        return self._early


class TestWriteAtomically:
    def test_it_replaces_contents_and_mode_and_leaves_nothing_else(self, tmp_path: Path) -> None:
        path = tmp_path / "file"
        path.write_text("old")
        write_atomically(path, b"new", 0o600)
        assert path.read_bytes() == b"new"
        assert path.stat().st_mode & 0o777 == 0o600
        assert list(tmp_path.iterdir()) == [path]

    def test_a_name_may_be_as_long_as_names_can_be(self, tmp_path: Path) -> None:
        path = tmp_path / ("n" * 255)
        write_atomically(path, b"x")
        assert path.read_bytes() == b"x"

    def test_a_failure_leaves_the_old_contents_and_nothing_else(self, tmp_path: Path) -> None:
        (tmp_path / "directory" / "in the way").mkdir(parents=True)
        with pytest.raises(OSError, match="irectory"):
            write_atomically(tmp_path / "directory", b"x")
        assert list(tmp_path.iterdir()) == [tmp_path / "directory"]

    def test_readers_see_the_old_or_the_new(self, tmp_path: Path) -> None:
        path, versions = tmp_path / "file", [b"a" * 100_000, b"b" * 100_000]
        path.write_bytes(versions[0])
        done = threading.Event()
        torn = []

        def read() -> None:
            while not done.is_set():
                if (seen := path.read_bytes()) not in versions:
                    torn.append(seen)

        reader = threading.Thread(target=read)
        reader.start()
        for n in range(40):
            write_atomically(path, versions[n % 2])
        done.set()
        reader.join()
        assert torn == []


class TestFileWatch:
    def test_it_tells_of_its_files_however_they_change_and_of_no_others(self, tmp_path: Path) -> None:
        path, told = tmp_path / "file", Told()
        watch = FileWatch([path], told)
        try:
            told.after(lambda: path.write_text("made"))
            told.after(lambda: path.write_text("changed"))
            told.after(lambda: write_atomically(path, b"replaced"))
            told.after(path.unlink)
        finally:
            watch.close()

    def test_it_does_not_tell_of_other_files_or_of_reading(self, tmp_path: Path) -> None:
        path, told = tmp_path / "file", Told()
        path.write_text("x")
        watch = FileWatch([path], told)
        try:
            told.never_before(lambda: not path.exists())
            (tmp_path / "other").write_text("x")
            path.read_text()
            assert not told.was_too_early()
            told.after(path.unlink)
        finally:
            watch.close()

    def test_it_follows_a_link_and_its_target(self, tmp_path: Path) -> None:
        for place in ("link", "one", "two"):
            (tmp_path / place).mkdir()
        one, two, link, told = tmp_path / "one/f", tmp_path / "two/f", tmp_path / "link/f", Told()
        one.write_text("x")
        two.write_text("x")
        link.symlink_to(one)
        watch = FileWatch([link], told)
        try:
            told.after(lambda: one.write_text("y"))

            def flip() -> None:
                (tmp_path / "link/new").symlink_to(two)
                (tmp_path / "link/new").replace(link)

            told.after(flip)
        finally:
            watch.close()

    def test_a_missing_directory_is_an_error(self, tmp_path: Path) -> None:
        with pytest.raises(OSError, match="No such file"):
            FileWatch([tmp_path / "none/file"], lambda: None)


class TestTreeWatch:
    def test_it_tells_of_what_happens_below(self, tmp_path: Path) -> None:
        told = Told()
        (tmp_path / "web").mkdir()
        watch = TreeWatch(tmp_path, told)
        path = tmp_path / "web/b1"
        try:
            told.after(lambda: path.write_text("x"))
            told.after(lambda: write_atomically(path, b"y"))
            told.after(lambda: os.utime(path))
            told.after(lambda: path.rename(tmp_path / "web/b2"))
            told.after((tmp_path / "db").mkdir)
            eventually_sync(lambda: told.after(lambda: (tmp_path / "db/b").write_text("x")) or True, "a new directory")
        finally:
            watch.close()

    def test_it_does_not_tell_of_dot_files_or_of_reading(self, tmp_path: Path) -> None:
        told, marker, path = Told(), tmp_path / "marker", tmp_path / "web/b1"
        (tmp_path / "web").mkdir()
        (tmp_path / ".git").mkdir()
        path.write_text("x")
        watch = TreeWatch(tmp_path, told)
        try:
            told.never_before(marker.exists)
            for hidden in (".revision", ".git/index", "web/.b1.swp"):
                (tmp_path / hidden).write_text("x")
            path.read_text()
            assert not told.was_too_early()
            told.after(marker.mkdir)
        finally:
            watch.close()

    def test_a_missing_directory_is_an_error(self, tmp_path: Path) -> None:
        with pytest.raises(OSError, match="No such file"):
            TreeWatch(tmp_path / "none", lambda: None)
