"""The file registry keeps the contract, whoever writes the files: leases, editors, git, or an unmounted disk."""

import asyncio
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from discovery.codec import decode, encode, key_of
from discovery.errors import AccessDeniedError, ConfigError, OwnedByAnotherError, RegistryUnavailableError
from discovery.files import write_atomically
from discovery.model import Rejected
from discovery.registry import Delta, Lease, RegistryURL, Reset, open_registry
from discovery.registry.file import FileRegistry, directory, follower, tree
from discovery.registry.file.directory import held
from discovery.registry.file.lease import FileLease
from discovery.registry.file.tree import Listing, Tree
from discovery.testing import Follower, RegistryContract, backend, contents, eventually, eventually_sync, following

PLAIN = b"10.0.0.1:80"


class TestContract(RegistryContract):
    ttl = 1.0

    def setup_method(self) -> None:
        self.root = Path(tempfile.mkdtemp())

    def teardown_method(self) -> None:
        shutil.rmtree(self.root)

    def open(self) -> FileRegistry:
        return FileRegistry(self.root)

    async def write(self, key: str, value: bytes) -> None:
        path = self.root / key
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(value)

    async def remove(self, key: str) -> None:
        (self.root / key).unlink()

    async def expire(self, lease: Lease) -> None:
        assert isinstance(lease, FileLease)
        lease.abandon()
        await asyncio.sleep(lease.ttl)
        lease._heart = asyncio.create_task(lease._live())


def write(root: Path, key: str, value: bytes = PLAIN) -> Path:
    path = root / key
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(value)
    return path


def scan(some: Tree, root: Path) -> Listing:
    with held(root) as descriptor:
        return some.scan(descriptor)


def follow(root: Path, check: Callable[[Follower], Awaitable[None]]) -> None:
    async def run() -> None:
        async with following(FileRegistry(root)) as watch:
            await check(watch)

    asyncio.run(run())


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

    def test_links_are_followed(self, tmp_path: Path) -> None:
        root = tmp_path / "root"
        write(tmp_path, "elsewhere/b1")
        write(root, "web/b1").unlink()
        (root / "web/b1").symlink_to(tmp_path / "elsewhere/b1")
        (root / "db").symlink_to(tmp_path / "elsewhere")
        (root / "web/dangling").symlink_to(tmp_path / "nowhere")
        assert asyncio.run(contents(FileRegistry(root))) == {"web/b1": PLAIN, "db/b1": PLAIN}

    def test_a_change_that_looks_the_same_is_seen(self, tmp_path: Path) -> None:
        path, some = write(tmp_path, "web/b1", b"10.0.0.1:81"), Tree()
        for port in range(82, 99):
            before = path.stat()
            assert scan(some, tmp_path).records == {"web/b1": f"10.0.0.1:{port - 1}".encode()}
            path.write_bytes(f"10.0.0.1:{port}".encode())
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))

    def test_a_file_that_is_being_written_keeps_its_old_contents(self, tmp_path: Path) -> None:
        path, some = write(tmp_path, "web/b1"), Tree()
        assert scan(some, tmp_path).records == {"web/b1": PLAIN}

        def seen_at_once() -> Listing | None:
            began = time.monotonic()
            path.write_bytes(b"")
            listing = scan(some, tmp_path)
            # On a machine that was busy for this long it may count as written.
            return listing if time.monotonic() - began < tree._YOUNG else None

        listing = eventually_sync(seen_at_once)
        assert listing.records == {"web/b1": PLAIN}
        assert listing.again is not None
        eventually_sync(lambda: scan(some, tmp_path).records == {"web/b1": b""}, "what lasts to be believed")

    @pytest.mark.parametrize("name", ["web/b1", "web"])
    def test_what_cannot_be_read_is_told_and_what_was_known_of_it_stands(self, tmp_path: Path, name: str) -> None:
        async def check(watch: Follower) -> None:
            aside = tmp_path / "aside"
            (root / name).rename(aside)
            (root / name).symlink_to(root / name)  # a link to itself cannot be read, not even by root
            await watch.until(lambda: watch.stale is not None)
            assert name in (watch.stale or "")
            write(root, "db/b2")
            await watch.lists("web/b1", "db/b2")
            await watch.until(lambda: watch.stale is not None)
            (root / name).unlink()
            aside.rename(root / name)
            await watch.until(lambda: watch.stale is None)
            await watch.lists("web/b1", "db/b2")

        root = tmp_path / "root"
        write(root, "web/b1")
        follow(root, check)

    def test_what_cannot_be_read_does_not_expire_and_is_not_removed(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path, some = write(tmp_path, "web/b1", encode(backend(), "alive", 60)), Tree()
        assert scan(some, tmp_path).records
        path.unlink()
        path.symlink_to(path)
        assert scan(some, tmp_path).problem
        later = time.monotonic() + 61
        monkeypatch.setattr(time, "monotonic", lambda: later)
        assert scan(some, tmp_path).records
        assert path.is_symlink()

    def test_it_can_do_without_the_kernel_s_help(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_: object) -> None:
            raise OSError(24, "inotify instance limit reached")

        async def check(watch: Follower) -> None:
            write(tmp_path, "web/b1")
            await watch.lists("web/b1")

        monkeypatch.setattr(follower, "TreeWatch", refuse)
        follow(tmp_path, check)


class TestTheDirectoryItself:
    def test_without_it_nothing_is_known(self, tmp_path: Path) -> None:
        async def check() -> None:
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

        asyncio.run(check())

    def test_an_outage_is_told_once(self, tmp_path: Path) -> None:
        watch = follower.Follower(tmp_path / "none", lambda: None)
        assert [len(watch.look().events) for _ in range(3)] == [1, 0, 0]
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
            await watch.until(lambda: "replaced by a new and empty one" in (watch.stale or ""))
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

        monkeypatch.setattr(directory, "_PATIENCE", 0.1)
        follow(tmp_path, check)

    def test_errors_name_it(self, tmp_path: Path) -> None:
        async def check() -> None:
            with pytest.raises(RegistryUnavailableError, match=f"{tmp_path}/none does not exist"):
                await FileRegistry(tmp_path / "none").open_lease("me", 1)
            lease = await FileRegistry(tmp_path).open_lease("me", 1)
            (tmp_path / "web").write_text("in the way")
            with pytest.raises(RegistryUnavailableError, match=f"cannot read {tmp_path}/web/b1: not a directory"):
                await lease.put(backend(id="b1"))
            await lease.close()

        asyncio.run(check())

    def test_one_that_may_not_be_used_is_told_of(self, tmp_path: Path) -> None:
        async def check() -> None:
            with pytest.raises(AccessDeniedError, match="permission denied"):
                await FileRegistry(tmp_path).open_lease("me", 1)

        tmp_path.chmod(0)
        user = os.geteuid()
        if user == 0:  # who may use everything
            os.seteuid(65534)
        try:
            asyncio.run(check())
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


class TestExpiry:
    def test_what_expired_is_not_listed_and_removed(self, tmp_path: Path) -> None:
        web = backend()
        dead = write(tmp_path, key_of(web), encode(web, "gone", 10))
        os.utime(dead, (0, time.time() - 11))
        static = write(tmp_path, "web/static")
        os.utime(static, (0, 0))
        assert asyncio.run(contents(FileRegistry(tmp_path))) == {"web/static": PLAIN}
        assert not dead.exists()

    def test_a_time_in_the_future_counts_from_when_it_was_seen(self, tmp_path: Path) -> None:
        async def check(watch: Follower) -> None:
            await watch.lists()

        path = write(tmp_path, key_of(backend()), encode(backend(), "gone", 1))
        os.utime(path, (0, time.time() + 3600))
        follow(tmp_path, check)

    def test_a_clock_that_is_set_expires_nothing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path, some, now = write(tmp_path, "web/b1", encode(backend(), "alive", 60)), Tree(), time.time()
        os.utime(path, (now, now))
        eventually_sync(lambda: time.time() - now > tree._YOUNG)
        assert scan(some, tmp_path).records
        for jump in (3600, -3600):
            monkeypatch.setattr(time, "time", lambda jump=jump: now + jump)
            assert scan(some, tmp_path).records

    def test_an_expired_record_is_free_to_be_taken(self, tmp_path: Path) -> None:
        async def check() -> None:
            lease = await FileRegistry(tmp_path).open_lease("host-2", 10)
            with pytest.raises(OwnedByAnotherError, match="host-1"):
                await lease.put(backend())
            os.utime(path, (0, time.time() - 11))
            await lease.put(backend())
            assert b"host-2" in path.read_bytes()
            await lease.close()
            assert not path.exists()

        path = write(tmp_path, key_of(backend()), encode(backend(), "host-1", 10))
        asyncio.run(check())


OWNER = """
import asyncio, sys
from pathlib import Path
from discovery.errors import OwnedByAnotherError
from discovery.registry.file import FileRegistry
from discovery.testing import backend

async def main(root, owner, count):
    lease = await FileRegistry(Path(root)).open_lease(owner, 1)
    for n in range(int(count)):
        await lease.put(backend(id=f"{owner}-{n}"))
    try:
        await lease.put(backend(id="wanted-by-all"))
        print("won", flush=True)
    except OwnedByAnotherError as error:
        print("refused", flush=True)
    print(await lease.lost(), flush=True)

asyncio.run(main(*sys.argv[1:]))
"""


def start_owner(root: Path, owner: str, count: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", OWNER, str(root), owner, str(count)], stdout=subprocess.PIPE, text=True
    )


class TestProcesses:
    def test_several_write_at_once_and_one_wins(self, tmp_path: Path) -> None:
        async def check(watch: Follower) -> None:
            owners = [start_owner(tmp_path, f"host-{n}", 10) for n in range(3)]
            try:
                said = [await asyncio.to_thread(owner.stdout.readline) for owner in owners if owner.stdout]
                assert sorted(said) == ["refused\n", "refused\n", "won\n"]
                await watch.until(lambda: len(watch.records or {}) == 31)
            finally:
                for owner in owners:
                    owner.kill()
                    owner.communicate()
            # Nobody withdrew anything: it expires.
            await watch.lists()
            assert list((tmp_path / "web").iterdir()) == []

        follow(tmp_path, check)

    def test_one_that_was_stopped_for_too_long_learns_that_its_lease_expired(self, tmp_path: Path) -> None:
        async def check(watch: Follower) -> None:
            owner = start_owner(tmp_path, "host-1", 0)
            try:
                await watch.lists("web/wanted-by-all")
                owner.send_signal(signal.SIGSTOP)
                await watch.lists()
                owner.send_signal(signal.SIGCONT)
                told, _ = await asyncio.to_thread(owner.communicate, timeout=10)
                assert "the lease of host-1 expired" in told
            finally:
                owner.kill()
                owner.communicate()

        follow(tmp_path, check)


_names = st.sampled_from(["a/1", "a/2", "b/1", "b/1/deeper", "top"])
_acts = st.one_of(
    st.tuples(st.just("write"), _names, st.integers(1, 9)),
    st.tuples(st.just("replace"), _names, st.integers(1, 9)),
    st.tuples(st.just("remove"), _names, st.just(0)),
    st.tuples(st.just("rename"), _names, _names),
    st.tuples(st.just("link"), _names, st.just(0)),
    st.tuples(st.just("settle"), st.just(""), st.just(0)),
)


def act(root: Path, kind: str, name: str, other: str | int) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    value = f"10.0.0.{other}:80".encode()
    if kind == "write":
        path.write_bytes(value)
    elif kind == "replace":
        write_atomically(path, value)
    elif kind == "remove":
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    elif kind == "rename":
        path.rename(root / str(other))
    else:
        path.symlink_to(root.parent / "linked to")


def naive(root: Path) -> dict[str, bytes]:
    """What is there, as somebody would tell it who takes all the time in the world."""
    records = {}
    for place in root.iterdir():
        if place.name.startswith("."):
            continue
        if not place.is_dir():
            records[place.name] = b""
            continue
        for path in place.iterdir():
            key = f"{place.name}/{path.name}"
            if path.is_dir():
                records[f"{key}/"] = b""
            elif path.is_file():
                records[key] = path.read_bytes()
    return records


@settings(max_examples=15)
@given(st.lists(_acts, max_size=15))
def test_whatever_is_done_to_the_files_what_is_told_adds_up_to_what_is_there(
    acts: list[tuple[str, str, str | int]],
) -> None:
    async def check(watch: Follower) -> None:
        for kind, name, other in acts:
            if kind == "settle":
                await watch.until(lambda: watch.records == naive(root))
            else:
                with suppress(OSError):  # what cannot be done is not done
                    act(root, kind, name, other)
        await watch.until(lambda: watch.records == naive(root), f"{naive(root)}")

    with tempfile.TemporaryDirectory() as place:
        root = Path(place) / "root"
        root.mkdir()
        write(root.parent, "linked to")
        follow(root, check)


class TestURL:
    def test_it_names_a_directory(self, tmp_path: Path) -> None:
        async def check() -> None:
            assert await contents(open_registry(f"file://{tmp_path}/a%20b")) == {"web/b1": PLAIN}

        write(tmp_path, "a b/web/b1")
        asyncio.run(check())

    @pytest.mark.parametrize(
        ("url", "message"),
        [
            ("file://", "names no directory"),
            ("file:///", "names no directory"),
            ("file://srv/services", "three slashes"),
            ("file:///srv?interval=1", "no option 'interval'"),
            ("file:///a%00b", "zero byte"),
        ],
    )
    def test_anything_else_is_refused(self, url: str, message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            FileRegistry.from_url(RegistryURL.parse(url))


def test_putting_the_same_again_does_not_write_the_file(tmp_path: Path) -> None:
    async def check() -> None:
        lease = await FileRegistry(tmp_path).open_lease("host-1", 10)
        inodes = set()
        for _ in range(3):
            await lease.put(backend())
            inodes.add((tmp_path / key_of(backend())).stat().st_ino)
        assert len(inodes) == 1
        await lease.close()

    asyncio.run(check())


def test_a_closed_registry_keeps_nothing_alive_and_withdraws_nothing(tmp_path: Path) -> None:
    async def check() -> None:
        registry = FileRegistry(tmp_path)
        lease = await registry.open_lease("host-1", 0.3)
        await lease.put(backend())
        await registry.close()
        assert (tmp_path / key_of(backend())).exists()
        await eventually(lease._heart.done)
        await eventually(lambda: not scan(Tree(), tmp_path).records, "the record to expire")

    asyncio.run(check())
