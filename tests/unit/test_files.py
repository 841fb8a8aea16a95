"""Files are replaced whole or not at all, and what happens to them is told."""

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from descriptors import open_descriptors

from discovery.system.files import sync_directory, write_atomically
from discovery.system.filewatch import FileWatch, TreeWatch
from discovery.testing import eventually_sync, within


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
        assert self._event.wait(within(10)), "nothing was told"

    def never_before(self, condition: Callable[[], object]) -> None:
        """From here on, nothing may be told before `condition` holds."""
        self._event.clear()
        self._condition = condition

    def was_too_early(self) -> bool:
        """Whether something was, given a moment to show itself. A late thread can hide it, never invent it."""
        self._event.wait(0.3)
        return self._early


@contextmanager
def watching(path: Path, told: Told) -> Iterator[None]:
    watch = FileWatch([path], told)
    try:
        yield
    finally:
        watch.close()


def turn(link: Path, target: str) -> None:
    """Have the link lead elsewhere, in one step."""
    following = link.with_name(f"{link.name}.next")
    following.symlink_to(target)
    following.replace(link)


class TestWriteAtomically:
    def test_it_replaces_contents_and_mode_and_leaves_nothing_else(self, tmp_path: Path) -> None:
        path = tmp_path / "file"
        path.write_text("old")
        write_atomically(path, b"new", 0o600)
        assert path.read_bytes() == b"new"
        assert path.stat().st_mode & 0o777 == 0o600
        assert list(tmp_path.iterdir()) == [path]

    @pytest.mark.parametrize("durable", [True, False])
    def test_any_number_of_parts_is_written_one_after_the_other(self, tmp_path: Path, durable: bool) -> None:
        parts = [str(number).encode() * (number % 7) for number in range(3000)]
        write_atomically(tmp_path / "file", parts, 0o600, durable=durable)
        assert (tmp_path / "file").read_bytes() == b"".join(parts)
        write_atomically(tmp_path / "file", [], durable=durable)
        assert (tmp_path / "file").read_bytes() == b""

    def test_a_system_that_takes_a_part_of_the_parts_is_given_the_rest(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(os, "writev", lambda descriptor, parts: os.write(descriptor, b"".join(parts)[:5]))
        write_atomically(tmp_path / "file", [b"one", b"two", b"three hundred", b"four"])
        assert (tmp_path / "file").read_bytes() == b"onetwothree hundredfour"

    def test_a_name_may_be_as_long_as_names_can_be(self, tmp_path: Path) -> None:
        path = tmp_path / ("n" * 255)
        write_atomically(path, b"x")
        assert path.read_bytes() == b"x"

    def test_a_failure_leaves_the_old_contents_and_nothing_else(self, tmp_path: Path) -> None:
        (tmp_path / "directory" / "in the way").mkdir(parents=True)
        with pytest.raises(OSError, match="irectory"):
            write_atomically(tmp_path / "directory", b"x")
        assert list(tmp_path.iterdir()) == [tmp_path / "directory"]

    def test_an_error_names_the_file_and_no_temporary_one(self, tmp_path: Path) -> None:
        (tmp_path / "directory").mkdir()
        reasons = []
        for path in (tmp_path / "directory", Path("/proc/file"), tmp_path / "directory"):
            with pytest.raises(OSError, match=f"'{path}'") as raised:
                write_atomically(path, b"x")
            assert raised.value.filename2 is None
            reasons.append(str(raised.value))
        assert ".tmp" not in "".join(reasons)
        assert reasons[0] == reasons[2], "the same failure reads the same each time"

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


class TestSyncDirectory:
    def test_a_directory_is_synced_and_no_descriptor_is_left(self, tmp_path: Path) -> None:
        before = open_descriptors()
        sync_directory(tmp_path)
        assert open_descriptors() == before

    def test_what_is_no_directory_is_an_os_error(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(NotADirectoryError):
            sync_directory(tmp_path / "file")
        with pytest.raises(FileNotFoundError):
            sync_directory(tmp_path / "none")


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

    def test_a_link_that_was_turned_is_followed_to_its_new_target(self, tmp_path: Path) -> None:
        """Point 9: the link to v2 was seen, a later change of v2 was not."""
        (tmp_path / "versions").mkdir()
        link, told = tmp_path / "discovery.toml", Told()
        for name in ("v1", "v2"):
            (tmp_path / "versions" / name).write_text("x")
        link.symlink_to("versions/v1")
        with watching(link, told):
            told.after(lambda: turn(link, "versions/v2"))
            told.after(lambda: (tmp_path / "versions/v2").write_text("changed"))
            told.after(lambda: write_atomically(tmp_path / "versions/v2", b"changed again"))
            told.after(lambda: turn(link, "versions/v1"))
            told.after(lambda: (tmp_path / "versions/v1").write_text("changed"))

    def test_every_turn_of_a_kubernetes_volume_is_told(self, tmp_path: Path) -> None:
        """Point 9: the first turn was seen, the second was not."""
        told = Told()
        (tmp_path / "..1").mkdir()
        (tmp_path / "..1/file").write_text("1")
        (tmp_path / "..data").symlink_to("..1")
        (tmp_path / "file").symlink_to("..data/file")
        with watching(tmp_path / "file", told):
            for n in range(2, 6):
                (tmp_path / f"..{n}").mkdir()
                (tmp_path / f"..{n}/file").write_text(str(n))
                told.after(lambda n=n: turn(tmp_path / "..data", f"..{n}"))
                shutil.rmtree(tmp_path / f"..{n - 1}")
            told.after(lambda: (tmp_path / "..5/file").write_text("changed"))

    def test_every_turn_of_a_directory_on_the_way_is_told(self, tmp_path: Path) -> None:
        """Point 9: no turn was seen."""
        told = Told()
        for n in range(1, 5):
            (tmp_path / f"releases/{n}/conf").mkdir(parents=True)
            (tmp_path / f"releases/{n}/conf/file").write_text("the same")
        current = tmp_path / "releases/current"
        current.symlink_to("1")
        with watching(current / "conf/file", told):
            for n in range(2, 5):
                told.after(lambda n=n: turn(current, str(n)))
                told.after(lambda n=n: (tmp_path / f"releases/{n}/conf/file").write_text("changed"))

    def test_a_directory_that_is_replaced_is_told_of_and_followed(self, tmp_path: Path) -> None:
        """Point 9: no link, but the same mistake."""
        told, conf = Told(), tmp_path / "a/conf"
        for place in ("a/conf", "b/conf"):
            (tmp_path / place).mkdir(parents=True)
            (tmp_path / place / "file").write_text(place)
        with watching(conf / "file", told):
            (tmp_path / "a").rename(tmp_path / "gone")
            told.after(lambda: (tmp_path / "b").rename(tmp_path / "a"))
            eventually_sync(lambda: told.after(lambda: (conf / "file").write_text("changed")) or True)

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
