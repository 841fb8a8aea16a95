"""Point 20: in the directory a link is followed only to a regular file beneath it, and only files are read."""

import os
import socket
import threading
import time
from pathlib import Path

import pytest

from discovery.errors import OwnedByAnotherError
from discovery.registry.file import FileRegistry
from discovery.registry.file.tree import Tree
from discovery.testing import Follower, backend, eventually, eventually_sync

from .conftest import PLAIN, follow, reasons, scan, write

OUTSIDE = "the symbolic link leads out of the registry's directory"
SECRET = b"root:$6$secret:1:0:99999:7:::\n"


class TestLinks:
    def test_one_that_leads_out_is_rejected_wherever_it_stands(self, tmp_path: Path) -> None:
        secret = write(tmp_path, "secret", SECRET)
        write(tmp_path, "other/b1")
        root = tmp_path / "records"
        write(root, "web/b1")
        links = {
            "web/absolute": str(secret),
            "web/relative": "../../secret",
            "web/twice": "../web/relative",
            "web/back": "../../records/web/b1",
            "web/environ": "/proc/self/environ",
            "web/descriptor": "/proc/self/fd/0",
            "service": "../other",
        }
        for name, target in links.items():
            (root / name).symlink_to(target)
        listing = scan(Tree(), root)
        assert reasons(listing) == dict.fromkeys(links, OUTSIDE)
        assert listing.records["web/b1"] == PLAIN
        assert not any(b"secret" in value for value in listing.records.values())
        assert listing.problem is None

    def test_one_that_stays_beneath_is_followed(self, tmp_path: Path) -> None:
        root = tmp_path / "root"
        write(root, ".store/web/b1")
        (root / "web").mkdir()
        (root / "web/b1").symlink_to("../.store/web/b1")
        (root / "web/b2").symlink_to("b1")
        (root / "web/b3").symlink_to(root.resolve() / ".store/web/b1")
        (root / "db").symlink_to(".store/web")
        assert scan(Tree(), root).records == dict.fromkeys(["web/b1", "web/b2", "web/b3", "db/b1"], PLAIN)

    def test_one_that_cannot_be_followed_makes_its_own_record_bad_alone(self, tmp_path: Path) -> None:
        write(tmp_path, "web/b1")
        for name, target in {"loop": "loop", "dangling": "nowhere", "directory": "../web", "through": "b1/x"}.items():
            (tmp_path / "web" / name).symlink_to(target)
        (tmp_path / "gone").symlink_to("nowhere")
        listing = scan(Tree(), tmp_path)
        assert reasons(listing) == {
            "web/loop": "too many symbolic links, perhaps a loop",
            "web/dangling": "no such file or directory",
            "web/directory": "the symbolic link ends at a directory and not at a regular file",
            "web/through": "not a directory",
            "gone": "no such file or directory",
        }
        assert listing.records["web/b1"] == PLAIN
        assert listing.problem is None

    def test_one_that_becomes_bad_is_told_and_one_that_becomes_good(self, tmp_path: Path) -> None:
        async def check(watch: Follower) -> None:
            (tmp_path / "next").symlink_to(tmp_path / "secret")
            (tmp_path / "next").replace(root / "web/b1")
            await watch.sees("web/b1", b"")
            assert watch.stale is None
            (root / "web/b1").unlink()
            (root / "web/b1").symlink_to("../.b1")
            await watch.sees("web/b1", b"10.0.0.7:80")

        root = tmp_path / "root"
        write(tmp_path, "secret", SECRET)
        write(root, "web/b1")
        write(root, ".b1", b"10.0.0.7:80")
        follow(root, check)

    def test_no_race_leads_out(self, tmp_path: Path) -> None:
        root, done = tmp_path / "root", threading.Event()
        write(tmp_path, "outside/b1", b"10.9.9.9:99")
        write(root, "inside/b1")
        (root / "web").mkdir()

        def turn() -> None:
            n = 0
            while not done.is_set():
                n += 1
                target = ("../inside/b1", "../swapped/b1", str(tmp_path / "outside/b1"))[n % 3]
                (root / "web/.next").symlink_to(target)
                (root / "web/.next").replace(root / "web/b1")
                (root / ".next").symlink_to(("inside", "../outside")[n % 2])
                (root / ".next").replace(root / "swapped")

        turning = threading.Thread(target=turn)
        turning.start()
        try:
            until = time.monotonic() + 2
            while time.monotonic() < until:
                values = set(scan(Tree(), root).records.values())
                assert values <= {PLAIN, b""}
        finally:
            done.set()
            turning.join()


class TestLayouts:
    def test_kubernetes_as_it_turns_data(self, tmp_path: Path) -> None:
        async def check(watch: Follower) -> None:
            await watch.lists("web/b1")
            for n in range(2, 5):
                write(root, f"..{n}/web/b1", f"10.0.0.{n}:80".encode())
                (root / "..data_tmp").symlink_to(f"..{n}")
                (root / "..data_tmp").replace(root / "..data")
                await watch.sees("web/b1", f"10.0.0.{n}:80".encode())

        root = tmp_path / "root"
        write(root, "..1/web/b1")
        (root / "..data").symlink_to("..1")
        (root / "web").symlink_to("..data/web")
        follow(root, check)

    @pytest.mark.parametrize("inside", [True, False])
    def test_releases_and_the_current_one(self, tmp_path: Path, inside: bool) -> None:
        async def check(watch: Follower) -> None:
            await watch.lists("web/b1")
            for n in range(2, 5):
                write(tmp_path, f"srv/.releases/{n}/web/b1", f"10.0.0.{n}:80".encode())
                (tmp_path / "srv/.next").symlink_to(f".releases/{n}")
                (tmp_path / "srv/.next").replace(tmp_path / "srv/.current")
                await watch.sees("web/b1", f"10.0.0.{n}:80".encode())

        write(tmp_path, "srv/.releases/1/web/b1")
        (tmp_path / "srv/.current").symlink_to(".releases/1")
        if inside:
            (tmp_path / "srv/web").symlink_to(".current/web")
        follow(tmp_path / ("srv" if inside else "srv/.current"), check)


class TestWhatIsNoFile:
    def test_pipes_sockets_and_devices_are_rejected_and_never_opened(self, tmp_path: Path) -> None:
        write(tmp_path, "web/b1")
        os.mkfifo(tmp_path / "web/pipe")
        (tmp_path / "web/to-pipe").symlink_to("pipe")
        expected = {"web/pipe": "a pipe", "web/to-pipe": "a pipe", "web/socket": "a socket"}
        if os.geteuid() == 0:
            os.mknod(tmp_path / "web/device", 0o600 | 0o020000, os.makedev(1, 3))
            expected["web/device"] = "a device"
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(str(tmp_path / "web/socket"))
            listing = scan(Tree(), tmp_path)
        assert reasons(listing) == {key: f"it is {kind} and not a regular file" for key, kind in expected.items()}
        assert listing.records["web/b1"] == PLAIN

    def test_a_huge_file_is_not_read_to_its_end(self, tmp_path: Path) -> None:
        os.truncate(write(tmp_path, "web/huge"), 1 << 40)
        some = Tree()
        reason = eventually_sync(lambda: reasons(scan(some, tmp_path)).get("web/huge"))
        assert reason == "the value is 65537 bytes; the limit is 65536"


class TestLeases:
    def test_a_link_at_a_key_is_neither_read_nor_written_through(self, tmp_path: Path) -> None:
        async def check(_: Follower) -> None:
            lease = await FileRegistry(root).open_lease("host-1", 10)
            with pytest.raises(OwnedByAnotherError):
                await lease.put(backend(id="b1"))
            await lease.put(backend(id="b2"))
            await lease.put(backend(id="b1"), force=True)
            await lease.close()
            assert outside.read_bytes() == SECRET

        root, outside = tmp_path / "root", write(tmp_path, "secret", SECRET)
        (root / "web").mkdir(parents=True)
        (root / "web/b1").symlink_to(outside)
        follow(root, check)

    def test_a_service_that_leads_out_is_not_written_to(self, tmp_path: Path) -> None:
        async def check(_: Follower) -> None:
            lease = await FileRegistry(root).open_lease("host-1", 10)
            with pytest.raises(Exception, match=OUTSIDE):
                await lease.put(backend(id="b1"))
            await lease.close()
            await eventually(lambda: list((tmp_path / "outside").iterdir()) == [])

        root = tmp_path / "root"
        root.mkdir()
        (tmp_path / "outside").mkdir()
        (root / "web").symlink_to(tmp_path / "outside")
        follow(root, check)
