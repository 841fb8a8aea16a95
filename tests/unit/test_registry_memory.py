"""The memory registry keeps the contract, and plays the outages that a test asks for."""

import pytest
from sound_registries import MemoryContract

from discovery.errors import ConfigError, RegistryUnavailableError
from discovery.registry import Delta, Reset, Stale, open_registry
from discovery.registry.memory import MemoryRegistry
from discovery.testing import backend, following


class TestContract(MemoryContract):
    """The contract of the memory registry."""


def test_its_url_has_no_parts() -> None:
    assert isinstance(open_registry("memory://"), MemoryRegistry)
    for url in ("memory://name", "memory:///services", "memory://?ttl=1", "memory://user@"):
        with pytest.raises(ConfigError, match="write memory://"):
            open_registry(url)


async def test_each_revision_is_one_delta_also_to_a_slow_reader() -> None:
    registry = MemoryRegistry()
    events = registry.watch()
    assert await anext(events) == Reset(1, {})
    registry.put_raw("a/1", b"x")
    registry.put_raw("a/1", b"y")
    registry.delete_raw("a/1")
    told = [await anext(events) for _ in range(3)]
    assert told == [Delta(2, {"a/1": b"x"}), Delta(3, {"a/1": b"y"}), Delta(4, {}, frozenset({"a/1"}))]
    await events.aclose()


async def test_an_outage_is_told_once_and_what_it_hid_follows() -> None:
    registry = MemoryRegistry()
    registry.set_stale("cut")
    events = registry.watch()
    assert await anext(events) == Stale("cut")
    with pytest.raises(RegistryUnavailableError, match="cut"):
        await registry.open_lease("me", 1)
    registry.put_raw("a/1", b"x")
    registry.set_fresh()
    assert await anext(events) == Reset(2, {"a/1": b"x"})
    registry.set_stale("cut again")
    assert await anext(events) == Stale("cut again")
    registry.set_fresh()
    assert await anext(events) == Delta(2, {})
    registry.set_stale("cut once more")
    assert await anext(events) == Stale("cut once more")
    registry.put_raw("a/1", b"y")
    registry.put_raw("a/1", b"z")
    registry.set_fresh()
    told = [await anext(events) for _ in range(2)]
    assert told == [Delta(3, {"a/1": b"y"}), Delta(4, {"a/1": b"z"})]
    assert [event.present for event in told if isinstance(event, Delta)] == [4, 0]
    await events.aclose()


async def test_a_lease_cannot_write_during_an_outage() -> None:
    registry = MemoryRegistry()
    lease = await registry.open_lease("me", 1)
    registry.set_stale("cut")
    with pytest.raises(RegistryUnavailableError, match="cut"):
        await lease.put(backend())
    registry.set_fresh()
    await lease.put(backend())
    assert registry.records


async def test_a_loss_begins_another_history_without_records() -> None:
    """Point 3."""
    registry = MemoryRegistry()
    lease = await registry.open_lease("host-1", 5)
    await lease.put(backend())
    registry.put_raw("db/b", b"10.0.0.1:80")
    async with following(registry) as follower:
        assert follower.leases == {"web/127.0.0.1:8080": 5}
        registry.lose()
        await follower.lists()
        first, second = follower.resets
        assert (first.another, second.another) == (False, True)
        assert second.revision < first.revision
        assert await lease.lost()


async def test_a_record_is_created_once_until_it_is_removed() -> None:
    registry = MemoryRegistry()
    registry.put_raw("a/1", b"x")
    events = registry.watch()
    first = await anext(events)
    registry.put_raw("a/1", b"y")
    registry.delete_raw("a/1")
    registry.put_raw("a/1", b"x")
    told = [first, *[await anext(events) for _ in range(3)]]
    assert [each.created for each in told if isinstance(each, Reset | Delta)] == [
        {"a/1": 2},
        {"a/1": 2},
        {},
        {"a/1": 5},
    ]
    await events.aclose()
