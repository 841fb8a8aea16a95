"""Following a registry over restarts of the daemon: what one run leaves on disk is what the next one needs."""

import os
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import structlog

from discovery.consuming.following import TIMING, RegistryFeed, Timing
from discovery.consuming.lastgood import Pace
from discovery.model import Snapshot
from discovery.registry import RegistryURL
from discovery.registry.memory import MemoryRegistry
from discovery.testing import backend, eventually

URL = RegistryURL.parse("memory://test")


@asynccontextmanager
async def run_of(registry: MemoryRegistry, state_dir: Path, timing: Timing = TIMING) -> AsyncIterator[RegistryFeed]:
    """One run of a daemon, which is stopped in order."""
    following = RegistryFeed(structlog.get_logger(), lambda snapshot: None, lambda: None, timing)
    await following.follow(registry, URL, state_dir)
    try:
        yield following
    finally:
        await following.stop()


def keys(snapshot: Snapshot | None) -> set[str] | None:
    return None if snapshot is None else {f"{each.service}/{each.id}" for each in snapshot.backends()}


async def test_two_restarts_while_the_registry_is_away_keep_the_doubt(tmp_path: Path) -> None:
    """Point 3: the run that only served from disk tells the next one that there was a gap."""
    registry = MemoryRegistry()
    lease = await registry.open_lease("living", 10)
    await lease.put(backend("web", "a"))
    registry.put_raw("db/b", b"10.0.0.2:80")
    async with run_of(registry, tmp_path) as following:
        await eventually(lambda: keys(following.snapshot) == {"web/a", "db/b"})
    registry.set_stale("it stands still")
    async with run_of(registry, tmp_path) as following:
        await eventually(lambda: following.from_disk)
    registry.delete_raw("web/a")  # its lease expired while the registry stood still
    registry.set_fresh()
    async with run_of(registry, tmp_path) as following:
        await eventually(lambda: following.snapshot is not None)
        assert keys(following.snapshot) == {"web/a", "db/b"}
        assert set(following.held) == {"web/a"}


async def test_what_is_released_while_the_registry_is_away_stays_released(tmp_path: Path) -> None:
    """Point 3: a restart does not serve again what a person has given up."""
    registry = MemoryRegistry()
    registry.put_raw("web/gone", b"10.0.0.1:80")
    registry.put_raw("db/kept", b"10.0.0.2:80")
    async with run_of(registry, tmp_path) as following:
        await eventually(lambda: keys(following.snapshot) == {"web/gone", "db/kept"})
        registry.lose()
        await eventually(lambda: set(following.held) == {"web/gone", "db/kept"})
        registry.set_stale("it is away again")
        await eventually(lambda: following.stale)
        assert following.release("web") == ("web/gone",)
        assert keys(following.snapshot) == {"db/kept"}
    async with run_of(registry, tmp_path) as following:
        await eventually(lambda: following.from_disk)
        assert keys(following.snapshot) == {"db/kept"}


async def test_a_run_that_is_killed_leaves_the_changes_of_a_large_snapshot(tmp_path: Path) -> None:
    timing = Timing(pace=Pace(appended_from=0, rest=0.01))
    state, left = tmp_path / "state", tmp_path / "left"
    registry = MemoryRegistry()
    registry.put_raw("web/a", b"10.0.0.1:80")
    async with run_of(registry, state, timing):
        await eventually(lambda: list(state.glob("snapshot-*.json")))
        registry.put_raw("web/b", b"10.0.0.2:80")
        await eventually(lambda: any(each.stat().st_size for each in state.glob("snapshot-*.changes")))
        shutil.copytree(state, left)
    registry.set_stale("away")
    async with run_of(registry, left) as following:
        await eventually(lambda: following.from_disk)
        assert keys(following.snapshot) == {"web/a", "web/b"}


async def test_serving_from_disk_does_not_make_the_snapshot_younger(tmp_path: Path) -> None:
    """Point 3: its age counts from when the registry last vouched for it, over any number of restarts."""
    registry = MemoryRegistry()
    registry.put_raw("web/a", b"10.0.0.1:80")
    async with run_of(registry, tmp_path) as following:
        await eventually(lambda: keys(following.snapshot) == {"web/a"})
    registry.set_stale("away")
    (file,) = tmp_path.glob("snapshot-*.json")
    then = time.time() - 1000
    os.utime(file, (then, then))
    for _ in range(2):
        async with run_of(registry, tmp_path) as following:
            await eventually(lambda: following.from_disk)
    assert abs(file.stat().st_mtime - then) < 1


async def test_the_owner_of_a_held_record_stays_known_and_a_restart_learns_the_owners_from_the_registry(
    tmp_path: Path,
) -> None:
    registry = MemoryRegistry()
    lease = await registry.open_lease("living", 10)
    await lease.put(backend("web", "a"))
    async with run_of(registry, tmp_path) as following:
        await eventually(lambda: keys(following.snapshot) == {"web/a"})
        registry.lose()
        await eventually(lambda: set(following.held) == {"web/a"})
        assert following.owners.by_key == {"web/a": "living"}
    assert following.owners.by_key == {}
    registry.set_stale("away")
    async with run_of(registry, tmp_path) as following:
        await eventually(lambda: following.from_disk)
        assert (keys(following.snapshot), following.owners.by_key) == ({"web/a"}, {})
        registry.set_fresh()
        registry.put_raw("web/a", b'{"host": "10.0.0.1", "port": 80, "owner": "another"}')
        await eventually(lambda: following.owners.by_key == {"web/a": "another"})


async def test_the_owners_of_one_registry_stand_as_long_as_its_snapshot(tmp_path: Path) -> None:
    first, second = MemoryRegistry(), MemoryRegistry()
    for registry, owner in ((first, "this"), (second, "that")):
        await (await registry.open_lease(owner, 10)).put(backend("web", owner))
    second.set_stale("away")
    async with run_of(first, tmp_path) as following:
        await eventually(lambda: following.snapshot is not None)
        await following.follow(second, RegistryURL.parse("memory://other"), tmp_path)
        await eventually(lambda: following.stale)
        assert (keys(following.snapshot), following.owners.by_key) == ({"web/this"}, {"web/this": "this"})
        second.set_fresh()
        await eventually(lambda: keys(following.snapshot) == {"web/that"})
        assert following.owners.by_key == {"web/that": "that"}
