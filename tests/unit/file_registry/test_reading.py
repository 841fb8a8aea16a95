"""What the file registry makes of odd files: half-written, unreadable, links, and what is no record at all."""

import asyncio
import io
import os
import time
from pathlib import Path

import pytest

from discovery.codec import decode, encode
from discovery.model import Rejected
from discovery.registry.file import FileRegistry, follower, tree
from discovery.registry.file.tree import DirectoryListing, Tree
from discovery.testing import Follower, backend, contents, eventually_sync

from .conftest import PLAIN, as_nobody, follow, reasons, scan, write


class TestReading:
    def test_dot_files_are_left_out(self, tmp_path: Path) -> None:
        for key in ("web/b1", "web/.b1.swp", ".git/config", ".hidden"):
            write(tmp_path, key)
        assert asyncio.run(contents(FileRegistry(tmp_path))) == {"web/b1": PLAIN}

    def test_what_is_no_record_is_listed_so_that_it_is_refused_with_a_reason(self, tmp_path: Path) -> None:
        write(tmp_path, "README.md")
        write(tmp_path, "web/deeper/b1")
        (tmp_path / "web" / os.fsdecode(b"\xff\xfe")).write_bytes(PLAIN)
        write(tmp_path, "web/line\nbreak")
        os.mkfifo(tmp_path / "web/pipe")

        async def check(watch: Follower) -> None:
            await watch.lists("README.md", "web/deeper/", "web/\\xff\\xfe", "web/line\nbreak", "web/pipe")
            assert all(isinstance(decode(key, value), Rejected) for key, value in (watch.records or {}).items())

        follow(tmp_path, check)

    def test_a_change_that_looks_the_same_is_seen(self, tmp_path: Path) -> None:
        path, some = write(tmp_path, "web/b1", b"10.0.0.1:81"), Tree()
        for port in range(82, 99):
            before = path.stat()
            assert scan(some, tmp_path).records == {"web/b1": f"10.0.0.1:{port - 1}".encode()}
            path.write_bytes(f"10.0.0.1:{port}".encode())
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))

    def test_a_change_that_looks_the_same_is_seen_even_if_reading_took_long(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path, some = write(tmp_path, "web/b1", b"10.0.0.1:80"), Tree()

        def coarse(status: os.stat_result) -> tuple[int, ...]:
            # Before Linux 6.13 the clock of files ticks every few milliseconds.
            return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns // 10**7

        class Slow(io.FileIO):
            def read(self, size: int | None = -1) -> bytes:
                value = super().read(size)
                # It changes right after it was read, and then we are not given the processor for a while.
                status = path.stat()
                path.write_bytes(b"10.0.0.1:81")
                os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
                time.sleep(tree._YOUNG * 1.5)
                return value or b""

        monkeypatch.setattr(tree, "_signature", coarse)
        for _ in range(5):  # most often within one tick
            path.write_bytes(b"10.0.0.1:80")
            with monkeypatch.context() as patch:
                patch.setattr(os, "fdopen", Slow)
                assert scan(some, tmp_path).records == {"web/b1": b"10.0.0.1:80"}
            assert scan(some, tmp_path).records == {"web/b1": b"10.0.0.1:81"}

    def test_a_file_that_is_being_written_keeps_its_old_contents(self, tmp_path: Path) -> None:
        def seen_at_once() -> tuple[Tree, DirectoryListing] | None:
            path, some = write(tmp_path, "web/b1"), Tree()
            assert scan(some, tmp_path).records == {"web/b1": PLAIN}
            began = time.monotonic()
            path.write_bytes(b"")
            listing = scan(some, tmp_path)
            # On a machine that was busy for this long it may count as written.
            return (some, listing) if time.monotonic() - began < tree._YOUNG else None

        some, listing = eventually_sync(seen_at_once)
        assert listing.records == {"web/b1": PLAIN}
        assert listing.again is not None
        eventually_sync(lambda: scan(some, tmp_path).records == {"web/b1": b""}, "what lasts to be believed")

    @pytest.mark.parametrize("name", ["web/b1", "web"])
    def test_what_may_no_longer_be_read_stands_and_hinders_nobody(self, tmp_path: Path, name: str) -> None:
        """Point 20: a file that cannot be read, in the directory of one service, does not make the registry stale."""

        async def check(watch: Follower) -> None:
            await watch.lists("web/b1", "db/b1")
            (root / name).chmod(0)
            write(root, "db/b2")
            await watch.lists("web/b1", "db/b1", "db/b2")
            assert watch.stale is None
            (root / name).chmod(0o755)
            write(root, "web/b1", b"10.0.0.1:81")
            await watch.sees("web/b1", b"10.0.0.1:81")

        root = tmp_path / "root"
        write(root, "web/b1")
        write(root, "db/b1")
        with as_nobody(tmp_path):
            follow(root, check)

    def test_what_may_not_be_read_from_the_start_is_rejected_alone(self, tmp_path: Path) -> None:
        """Point 20."""
        write(tmp_path, "web/b1").chmod(0)
        write(tmp_path, "shut/b1").parent.chmod(0)
        write(tmp_path, "db/b1")
        with as_nobody(tmp_path):
            listing = scan(Tree(), tmp_path)
        assert reasons(listing) == {"web/b1": "permission denied", "shut": "permission denied"}
        assert listing.records["db/b1"] == PLAIN
        assert listing.problem is None

    def test_what_may_no_longer_be_read_does_not_expire_and_is_not_removed(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path, some = write(tmp_path, "web/b1", encode(backend(), "alive", 60)), Tree()
        with as_nobody(tmp_path):
            assert scan(some, tmp_path).records
            path.chmod(0)
            assert scan(some, tmp_path).kept
            later = time.monotonic() + 61
            monkeypatch.setattr(time, "monotonic", lambda: later)
            assert scan(some, tmp_path).records
        assert path.exists()

    def test_it_can_do_without_the_kernel_s_help(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_: object) -> None:
            raise OSError(24, "inotify instance limit reached")

        async def check(watch: Follower) -> None:
            write(tmp_path, "web/b1")
            await watch.lists("web/b1")

        monkeypatch.setattr(follower, "TreeWatch", refuse)
        follow(tmp_path, check)
