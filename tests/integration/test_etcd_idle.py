"""An idle cluster is a healthy one, on every version of etcd."""

import asyncio
from contextlib import AsyncExitStack, aclosing

import pytest
from etcd_versions import VERSIONS, etcd_program, every_etcd
from sampling import sampled

from discovery.registry import Delta, RegistryEvent, Reset, open_registry
from discovery.system.embedded import EmbeddedEtcd
from discovery.testing import eventually
from discovery.testing.etcd import EtcdWriter

__all__ = ["etcd_program", "every_etcd"]


@pytest.mark.timeout(240)
@pytest.mark.parametrize("etcd_program", sampled(VERSIONS), indirect=True)
@pytest.mark.parametrize("seconds", [20, pytest.param(60, marks=pytest.mark.exhaustive)])
async def test_an_idle_cluster_is_neither_stale_nor_listed_again(every_etcd: EmbeddedEtcd, seconds: float) -> None:
    """Point 1. With a prefix that holds the last change, one that holds an earlier change, and one that is empty."""
    prefixes = [f"{every_etcd.url}/{name}" for name in ("earlier", "last", "empty")]
    told: dict[str, list[RegistryEvent]] = {url: [] for url in prefixes}

    async def follow(url: str) -> None:
        registry = open_registry(url)
        try:
            async with aclosing(registry.watch()) as events:
                async for event in events:
                    told[url].append(event)
        finally:
            await registry.close()

    async with AsyncExitStack() as stack:
        writers = [await stack.enter_async_context(EtcdWriter(url)) for url in prefixes]
        for writer in writers[:2]:
            revision = await writer.change({"web/a": b"10.0.0.1:80"})
        async with asyncio.TaskGroup() as group:
            following = [group.create_task(follow(url)) for url in prefixes]
            await eventually(lambda: all(told.values()), "the first listings", timeout=60)
            listings = every_etcd.metric("etcd_mvcc_range_total")
            await asyncio.sleep(seconds)  # the bar is a length of time
            assert every_etcd.metric("etcd_mvcc_range_total") == listings
            records = {"web/a": b"10.0.0.1:80"}
            assert list(told.values()) == [[Reset(revision, records)]] * 2 + [[Reset(revision, {})]]
            for writer in writers:
                await writer.change({"web/b": b"10.0.0.2:80"})
            await eventually(lambda: all(len(events) == 2 for events in told.values()), "the changes", timeout=60)
            for events in told.values():
                match events[1]:
                    case Delta(_, puts, deletes):
                        assert (puts, deletes) == ({"web/b": b"10.0.0.2:80"}, frozenset())
                    case other:
                        raise AssertionError(other)
            for task in following:
                task.cancel()
