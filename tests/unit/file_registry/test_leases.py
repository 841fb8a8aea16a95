"""Leases on the file registry: what expires and what does not, and several processes at once."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from discovery.codec import encode
from discovery.errors import OwnedByAnotherError
from discovery.registry.file import FileRegistry, tree
from discovery.registry.file.directory import held
from discovery.registry.file.tree import Tree
from discovery.testing import Follower, backend, eventually, eventually_sync, within

from .conftest import follow, scan, write


class TestExpiry:
    def test_what_expired_is_not_listed_and_is_removed_after_a_ttl_without_a_sign_of_life(self, tmp_path: Path) -> None:
        async def check(watch: Follower) -> None:
            await watch.lists("web/static")
            assert dead.exists()
            await eventually(lambda: not dead.exists())
            assert static.exists()

        web = backend()
        dead = write(tmp_path, web.key, encode(web, "gone", 1))
        os.utime(dead, (0, time.time() - 11))
        static = write(tmp_path, "web/static")
        os.utime(static, (0, 0))
        follow(tmp_path, check)

    @pytest.mark.costly
    async def test_a_reader_whose_clock_is_ahead_lists_and_keeps_living_records(self, tmp_path: Path) -> None:
        """Point 25."""
        owner = await FileRegistry(tmp_path).open_lease("host-1", within(1))
        await owner.put(backend(id="b1"))
        reader = await asyncio.create_subprocess_exec(
            sys.executable, "-c", AHEAD, str(tmp_path), str(within(2.5)), stdout=asyncio.subprocess.PIPE
        )
        told, _ = await asyncio.wait_for(reader.communicate(), within(60))
        assert told.decode().splitlines() == ["['web/b1']"] * 3
        assert (tmp_path / "web/b1").exists()
        assert not owner._lost.done()
        await owner.close()

    async def test_a_lock_that_was_held_for_long_delays_no_later_look(self, tmp_path: Path) -> None:
        """A look that waited for the lock has cost no time of a processor."""
        registry = FileRegistry(tmp_path)
        owner, refused = await registry.open_lease("host-1", 60), await registry.open_lease("host-2", 60)
        await owner.put(backend())
        free = asyncio.create_task(refused.until_free([backend().key]))
        await asyncio.sleep(0.3)
        with held(tmp_path):
            await asyncio.sleep(2)  # the input is a length of time
        await asyncio.sleep(0.3)
        await owner.delete(backend())
        await asyncio.wait_for(free, within(8))
        await owner.close()
        await refused.close()

    def test_a_sign_of_life_that_is_seen_counts_whatever_its_time_says(self, tmp_path: Path) -> None:
        """Point 25."""
        path, some = write(tmp_path, "web/b1", encode(backend(), "alive", 60)), Tree()
        os.utime(path, (0, 1000))
        assert scan(some, tmp_path).records == {}
        os.utime(path, (0, 1001))
        assert scan(some, tmp_path).records
        assert path.exists()

    def test_a_time_in_the_future_counts_from_when_it_was_seen(self, tmp_path: Path) -> None:
        async def check(watch: Follower) -> None:
            await watch.lists()

        path = write(tmp_path, backend().key, encode(backend(), "gone", 1))
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

    async def test_an_expired_record_is_free_to_be_taken(self, tmp_path: Path) -> None:
        path = write(tmp_path, backend().key, encode(backend(), "host-1", 10))
        lease = await FileRegistry(tmp_path).open_lease("host-2", 10)
        with pytest.raises(OwnedByAnotherError, match="host-1"):
            await lease.put(backend())
        os.utime(path, (0, time.time() - 11))
        await lease.put(backend())
        assert b"host-2" in path.read_bytes()
        await lease.close()
        assert not path.exists()


AHEAD = """
import asyncio, sys, time
from pathlib import Path

true_time = time.time
time.time = lambda: true_time() + 3600

from discovery.registry.file import FileRegistry
from discovery.testing import contents, following

async def main():
    registry = FileRegistry(Path(sys.argv[1]))
    print(sorted(await contents(registry)))
    async with following(registry) as watch:
        print(sorted(watch.records))
        await asyncio.sleep(float(sys.argv[2]))
        print(sorted(watch.records))

asyncio.run(main())
"""

OWNER = """
import asyncio, sys
from pathlib import Path
from discovery.errors import OwnedByAnotherError
from discovery.registry.file import FileRegistry
from discovery.testing import backend, within

async def main(root, owner, count):
    lease = await FileRegistry(Path(root)).open_lease(owner, within(2))
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
    @pytest.mark.costly
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
            await eventually(lambda: list((tmp_path / "web").iterdir()) == [])

        follow(tmp_path, check)

    def test_one_that_was_stopped_for_too_long_learns_that_its_lease_expired(self, tmp_path: Path) -> None:
        async def check(watch: Follower) -> None:
            owner = start_owner(tmp_path, "host-1", 0)
            assert owner.stdout is not None
            try:
                assert await asyncio.to_thread(owner.stdout.readline) == "won\n"  # on a busy machine it starts slowly
                await watch.lists("web/wanted-by-all")
                owner.send_signal(signal.SIGSTOP)
                await watch.lists()
                owner.send_signal(signal.SIGCONT)
                told, _ = await asyncio.to_thread(owner.communicate, timeout=within(10))
                assert "the lease of host-1 expired" in told
            finally:
                owner.kill()
                owner.communicate()

        follow(tmp_path, check)


async def test_putting_the_same_again_does_not_write_the_file(tmp_path: Path) -> None:
    lease = await FileRegistry(tmp_path).open_lease("host-1", 10)
    inodes = set()
    for _ in range(3):
        await lease.put(backend())
        inodes.add((tmp_path / backend().key).stat().st_ino)
    assert len(inodes) == 1
    await lease.close()


async def test_a_closed_registry_keeps_nothing_alive_and_withdraws_nothing(tmp_path: Path) -> None:
    registry = FileRegistry(tmp_path)
    lease = await registry.open_lease("host-1", 0.3)
    await lease.put(backend())
    await registry.close()
    assert (tmp_path / backend().key).exists()
    await eventually(lease._keep_alive_task.done)
    await eventually(lambda: not scan(Tree(), tmp_path).records, "the record to expire")


def test_a_put_that_was_given_up_writes_nothing_after_the_lease_was_closed(tmp_path: Path) -> None:
    complaints: list[dict[str, object]] = []

    async def check() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        lease = await FileRegistry(tmp_path).open_lease("host-1", 60)
        closing: list[asyncio.Task[None]] = []
        with held(tmp_path):
            for port in range(1, 4):
                putting = asyncio.create_task(lease.put(backend(port=port)))
                await asyncio.sleep(0)
                putting.cancel()
                await asyncio.gather(putting, return_exceptions=True)
            closing.append(asyncio.create_task(lease.close()))
            await asyncio.sleep(0)
        await asyncio.gather(*closing)

    for _ in range(5):
        asyncio.run(check())  # which waits for the threads
        assert not scan(Tree(), tmp_path).records
    assert not complaints  # a current Python reports each exception behind a shield whose caller has left


class TestMoves:
    @pytest.mark.parametrize("now", ["gone", "another's", "withdrawn"])
    async def test_a_key_that_was_granted_costs_no_lease_whatever_becomes_of_it(self, tmp_path: Path, now: str) -> None:
        """The new owner may end at once, or hand the key on; and the owner may withdraw what it has granted."""
        registry, key = FileRegistry(tmp_path), backend().key
        first, second, third = [await registry.open_lease(owner, within(20)) for owner in ("first", "second", "third")]
        await first.put(backend())
        asking = asyncio.ensure_future(second.take_over(backend(weight=9)))
        while key not in first._granted:
            await asyncio.to_thread(first._answer)
        if now == "withdrawn":
            await first.delete(backend())
        await asking
        if now == "gone":
            await second.delete(backend())
        elif now == "another's":
            await third.put(backend(), force=True)
        handed = await asyncio.to_thread(first._answer)
        assert handed == {"gone": (key, "second"), "another's": (key, "third"), "withdrawn": None}[now]
        assert await asyncio.to_thread(first._touch_records) is None  # the lease goes on
        for lease in (first, second, third):
            await lease.close()

    async def test_a_request_whose_owner_has_ended_is_removed_by_any_owner(self, tmp_path: Path) -> None:
        """Otherwise each owner would read the request several times a second forever."""
        registry = FileRegistry(tmp_path)
        silent, dead, owner = [await registry.open_lease(name, within(20)) for name in ("silent", "dead", "owner")]
        await silent.put(backend())
        assert not await asyncio.to_thread(dead._take, backend().key, encode(backend(), "dead", 20))
        request = tmp_path / ".takeover" / backend().key
        os.utime(request, (0, time.time() + 60))  # updated now, however slow the machine is
        assert await asyncio.to_thread(owner._answer) is None
        assert request.exists()
        os.utime(request, (0, time.time() - 6))
        assert await asyncio.to_thread(owner._answer) is None
        assert not (tmp_path / ".takeover").exists()
        for lease in (silent, dead, owner):
            await lease.close()
