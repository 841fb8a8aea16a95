"""`discovery register` suspended and killed: when its record goes, when it is back, and when it never goes."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from discovery.registry import open_registry
from discovery.system.embedded import EmbeddedEtcd
from discovery.testing import Follower, eventually, following

from .conftest import Command, Start, World

KEY = "web/x"
TTL = 2  # etcd's least


def register(start: Start, world: World, ttl: int = TTL) -> Command:
    command = start("register", "web", "127.0.0.1:1", "--id", "x", "--ttl", str(ttl), "--registry", world.url)
    assert command.line().startswith(f"registered {KEY}")
    return command


@asynccontextmanager
async def following_etcd(world: World) -> AsyncIterator[Follower]:
    registry = open_registry(world.url)
    try:
        async with following(registry) as follower:
            yield follower
    finally:
        await registry.close()


def history(follower: Follower) -> list[str]:
    """What happened to the record, a word for each of etcd's revisions."""
    return ["put" if KEY in delta.puts else "gone" for delta in follower.deltas]


async def test_suspended_past_its_ttl_it_is_registered_again_within_two_seconds(
    start: Start, etcd_world: World
) -> None:
    async with following_etcd(etcd_world) as follower:
        command = await asyncio.to_thread(register, start, etcd_world)
        await follower.lists(KEY)
        for _ in range(2):
            command.process.send_signal(signal.SIGSTOP)
            await follower.lists()
            command.process.send_signal(signal.SIGCONT)
            await follower.until(lambda: KEY in (follower.records or {}), "it to be back", timeout=2)
        assert await asyncio.to_thread(command.stop) == 0
        await follower.lists()
        assert history(follower) == ["put", "gone", "put", "gone", "put", "gone"]


async def test_killed_it_is_gone_after_its_ttl_and_not_before(start: Start, etcd_world: World) -> None:
    async with following_etcd(etcd_world) as follower:
        command = await asyncio.to_thread(register, start, etcd_world)
        await follower.lists(KEY)
        await asyncio.sleep(TTL)  # it is kept alive by then, not only granted
        command.process.kill()
        gone = asyncio.ensure_future(follower.until(lambda: not follower.records, "it to go", timeout=TTL + 2))
        early, _ = await asyncio.wait({gone}, timeout=TTL - 1)
        assert not early
        await gone


@pytest.mark.costly
async def test_killed_and_started_again_at_once_it_never_goes(
    start: Start, etcd_world: World, etcd: EmbeddedEtcd
) -> None:
    async with following_etcd(etcd_world) as follower:
        before = await asyncio.to_thread(leases, etcd)
        ttl = 8  # long enough for a process to start on a busy machine
        command = await asyncio.to_thread(register, start, etcd_world, ttl)
        [old] = await asyncio.to_thread(leases, etcd) - before
        command.process.kill()
        again = await asyncio.to_thread(register, start, etcd_world, ttl)
        await eventually(lambda: old not in leases(etcd), "the earlier run's lease to end", timeout=2 * ttl)
        # Any change after its end comes after whatever that did.
        etcd_world.put("web/last", "127.0.0.1:2")
        await follower.lists(KEY, "web/last")
        assert [set(delta.puts) for delta in follower.deltas] == [{KEY}, {KEY}, {"web/last"}]
        assert await asyncio.to_thread(again.stop) == 0


def leases(etcd: EmbeddedEtcd) -> set[str]:
    return set(etcd.ctl("lease", "list").split()[3:])
