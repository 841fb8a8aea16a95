"""The file registry's directory: missing, replaced, locked, forbidden; and the revision that is kept in it."""

import asyncio
import fcntl
import os
from pathlib import Path

import pytest

from discovery.errors import AccessDeniedError, RegistryUnavailableError
from discovery.registry import Delta, Reset
from discovery.registry.file import FileRegistry, directory, follower
from discovery.registry.file.directory import held
from discovery.registry.file.tree import Tree
from discovery.testing import Follower, backend

from .conftest import PLAIN, follow, write


class TestTheDirectoryItself:
    async def test_without_it_nothing_is_known(self, tmp_path: Path) -> None:
        root = tmp_path / "root"
        watch = Follower(FileRegistry(root))
        watch.task = asyncio.create_task(watch.run())
        await watch.until(lambda: watch.stale is not None)
        assert watch.stale == f"the registry directory {root} does not exist; `mkdir -p {root}` makes it"
        assert watch.records is None
        write(root, "web/b1")
        await watch.lists("web/b1")
        assert watch.stale is None
        watch.task.cancel()
        await asyncio.wait([watch.task])

    def test_an_outage_is_told_once(self, tmp_path: Path) -> None:
        watch = follower.DirectoryFollower(tmp_path / "none", lambda: None)
        assert [len(watch.scan().events) for _ in range(3)] == [1, 0, 0]
        watch.close()

    def test_when_it_goes_what_was_known_stands_until_it_is_back(self, tmp_path: Path) -> None:
        async def check(watch: Follower) -> None:
            (root / "web/b1").write_bytes(b"10.0.0.2:80")
            await watch.sees("web/b1", b"10.0.0.2:80")
            root.rename(tmp_path / "aside")
            await watch.until(lambda: watch.stale is not None)
            await watch.lists("web/b1")
            (tmp_path / "aside").rename(root)
            await watch.until(lambda: watch.stale is None)
            write(root, "web/b2")
            await watch.lists("web/b1", "web/b2")

        root = tmp_path / "root"
        write(root, "web/b1")
        follow(root, check)

    def test_a_new_and_empty_one_in_its_place_is_believed_once_somebody_says_so(self, tmp_path: Path) -> None:
        async def check(watch: Follower) -> None:
            root.rename(tmp_path / "aside")
            root.mkdir()
            await watch.until(lambda: "replaced by a new and empty directory" in (watch.stale or ""))
            await watch.lists("web/b1")
            (root / directory.REVISION_FILE).touch()
            await watch.lists()
            assert watch.stale is None

        root = tmp_path / "root"
        write(root, "web/b1")
        follow(root, check)

    def test_a_link_to_it_may_be_turned_as_git_sync_does(self, tmp_path: Path) -> None:
        async def check(watch: Follower) -> None:
            (tmp_path / "next").symlink_to(tmp_path / "two")
            (tmp_path / "next").replace(link)
            await watch.lists("web/b1", "web/b3")
            assert [delta.deletes for delta in watch.deltas] == [{"web/b2"}]
            write(tmp_path, "two/web/b4")
            await watch.lists("web/b1", "web/b3", "web/b4")

        for key in ("one/web/b1", "one/web/b2", "two/web/b1", "two/web/b3"):
            write(tmp_path, key)
        link = tmp_path / "link"
        link.symlink_to(tmp_path / "one")
        follow(link, check)

    def test_who_holds_it_for_too_long_is_told_of(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        async def check(watch: Follower) -> None:
            hung = os.open(tmp_path, os.O_RDONLY)
            fcntl.flock(hung, fcntl.LOCK_EX)
            await watch.until(lambda: "stays locked" in (watch.stale or ""))
            with pytest.raises(RegistryUnavailableError, match="stays locked"):
                await FileRegistry(tmp_path).open_lease("me", 1)
            os.close(hung)
            await watch.until(lambda: watch.stale is None)

        monkeypatch.setattr(directory, "_LOCK_TIMEOUT", 0.1)
        follow(tmp_path, check)

    async def test_errors_name_it(self, tmp_path: Path) -> None:
        with pytest.raises(RegistryUnavailableError, match=f"{tmp_path}/none does not exist"):
            await FileRegistry(tmp_path / "none").open_lease("me", 1)
        lease = await FileRegistry(tmp_path).open_lease("me", 1)
        (tmp_path / "web").write_text("in the way")
        with pytest.raises(RegistryUnavailableError, match=f"cannot read {tmp_path}/web/b1: not a directory"):
            await lease.put(backend(id="b1"))
        await lease.close()

    async def test_one_that_may_not_be_used_is_told_of(self, tmp_path: Path) -> None:
        tmp_path.chmod(0)
        user = os.geteuid()
        if user == 0:  # who may use everything
            os.seteuid(65534)
        try:
            with pytest.raises(AccessDeniedError, match="permission denied"):
                await FileRegistry(tmp_path).open_lease("me", 1)
        finally:
            os.seteuid(user)
            tmp_path.chmod(0o700)


class TestRevision:
    def first(self, root: Path) -> int:
        async def run() -> int:
            events = FileRegistry(root).watch()
            first = await anext(events)
            await events.aclose()
            assert isinstance(first, Reset)
            return first.revision

        return asyncio.run(run())

    def test_it_counts_on_from_what_changed_while_nobody_watched(self, tmp_path: Path) -> None:
        revision = self.first(tmp_path)
        assert self.first(tmp_path) == revision
        write(tmp_path, "web/b1")
        assert self.first(tmp_path) == revision + 1
        (tmp_path / "web/b1").touch()
        assert self.first(tmp_path) == revision + 1

    @pytest.mark.parametrize("contents", [None, b"", b"7", b"x" * 1000, f"{3:020d} {'0' * 32}\n".encode()])
    def test_it_goes_on_when_its_file_is_lost_or_nonsense(self, tmp_path: Path, contents: bytes | None) -> None:
        async def check(watch: Follower) -> None:
            for n in range(5):
                write(tmp_path, "web/b1", f"10.0.0.1:{1000 + n}".encode())
                await watch.sees("web/b1", f"10.0.0.1:{1000 + n}".encode())
            before = watch.revision
            if contents is None:
                (tmp_path / directory.REVISION_FILE).unlink()
            else:
                (tmp_path / directory.REVISION_FILE).write_bytes(contents)
            write(tmp_path, "web/b2")
            await watch.lists("web/b1", "web/b2")
            assert watch.revision > before

        follow(tmp_path, check)

    def test_who_may_not_write_it_counts_alone(self, tmp_path: Path) -> None:
        async def check(watch: Follower) -> None:
            revisions = [watch.revision]
            for key in ("web/b1", "web/b2"):
                write(tmp_path, key)
                await watch.sees(key, PLAIN)
                revisions.append(watch.revision)
            assert revisions == [1, 2, 3]
            assert watch.deltas == [
                Delta(2, {"web/b1": PLAIN}),
                Delta(3, {"web/b2": PLAIN}),
            ]

        (tmp_path / directory.REVISION_FILE).mkdir()
        follow(tmp_path, check)

    def test_another_who_counted_to_the_same_number_does_not_hide_a_change(self, tmp_path: Path) -> None:
        async def check(watch: Follower) -> None:
            write(tmp_path, "web/b1")
            await watch.lists("web/b1")  # counted alone
            with held(tmp_path) as descriptor:
                (tmp_path / directory.REVISION_FILE).rmdir()
                write(tmp_path, "web/b2")
                digest = Tree().scan(descriptor).digest
                (tmp_path / directory.REVISION_FILE).write_text(f"{watch.revision:020d} {digest}\n")
            await watch.lists("web/b1", "web/b2")

        (tmp_path / directory.REVISION_FILE).mkdir()
        follow(tmp_path, check)
