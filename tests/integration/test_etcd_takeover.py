"""Requests for records in etcd, where an owner, a request or a member fails in between."""

import asyncio
from typing import Any

import pytest
from etcds import etcd, opened, url

from discovery.codec import encode
from discovery.registry.etcd.lease import EtcdLease
from discovery.registry.etcd.messages import RANGE
from discovery.registry.requests import PLACE, Request
from discovery.testing import backend, contents, eventually, within
from discovery.testing.etcd import EtcdWriter

__all__ = ["etcd", "url"]

KEY = backend().key


async def test_records_whose_new_owner_has_them_already_are_not_lost(url: str) -> None:
    """The renewal of the lease may come between a move and the news of the move; many records may move at once."""
    async with opened(url) as registry:
        first, second = [await registry.open_lease(owner, within(20)) for owner in ("first", "second")]
        assert isinstance(first, EtcdLease)
        moved = [backend(), backend(id="other")]
        for each in moved:
            await first.put(each)
            first._takeovers.granted[each.key] = "second"
            await second.put(backend(id=each.id, weight=9), force=True)
        lost = asyncio.ensure_future(first.lost())
        told = set()
        for _ in moved:
            await first._verify()
            assert not lost.done()
            told.add(await asyncio.wait_for(first.handed_over(), within(10)))
        assert told == {(each.key, "second") for each in moved}
        assert first._takeovers.granted == {}
        lost.cancel()
        await asyncio.gather(first.close(), second.close())


@pytest.mark.parametrize("now", ["gone", "another's", "withdrawn"])
async def test_a_key_that_was_granted_costs_no_lease_whatever_becomes_of_it(url: str, now: str) -> None:
    """The new owner may end at once, or hand the key on; and the owner may withdraw what it has granted."""
    async with opened(url) as registry, EtcdWriter(url) as writer:
        first, third = [await registry.open_lease(owner, within(20)) for owner in ("first", "third")]
        assert isinstance(first, EtcdLease)
        await first.put(backend())
        first._takeovers.granted[KEY] = "second"
        if now == "gone":
            await writer.change({}, KEY)
        elif now == "another's":
            await third.put(backend(), force=True)
        else:
            await first.delete(backend())
        handing = asyncio.ensure_future(first.handed_over())
        if now == "withdrawn":
            await eventually(lambda: first._takeovers.granted == {}, "the owner to forget what it has granted")
            assert not handing.done()
        else:
            assert await asyncio.wait_for(handing, within(10)) == (KEY, "third" if now == "another's" else "second")
        await first.put(backend(id="other"))  # the lease goes on
        handing.cancel()
        await asyncio.gather(first.close(), third.close())


async def test_a_request_ends_with_the_lease_of_its_owner(url: str) -> None:
    """A machine that dies between the question and the answer gets no key, and costs the owner nothing."""
    async with opened(url) as registry, opened(url) as other:
        owner = await registry.open_lease("owner", within(20))
        dying = await other.open_lease("dying", 1)
        assert isinstance(owner, EtcdLease)
        assert isinstance(dying, EtcdLease)
        await owner.put(backend())
        await dying._takeovers._write(  # as a machine that stops after its request
            dying._takeovers._requests + KEY.encode(), Request("dying", "owner")
        )
        handing = asyncio.ensure_future(owner.handed_over())
        await eventually(lambda: owner._takeovers.granted == {KEY: "dying"}, "the owner to agree")
        await dying.abandon()
        await eventually(lambda: owner._takeovers.granted == {}, "the request to end", timeout=20)
        assert not handing.done()
        assert (await contents(registry))[KEY] == encode(backend(), "owner", owner.ttl)
        handing.cancel()
        await owner.close()


@pytest.mark.parametrize("value", [b"", b"{}", b"[]", b"null", b'{"owner": 1, "of": "owner"}', b"\xff", b"[" * 9000])
async def test_what_is_no_request_is_ignored(url: str, value: bytes) -> None:
    async with opened(url) as registry, EtcdWriter(url) as writer:
        owner = await registry.open_lease("owner", within(20))
        assert isinstance(owner, EtcdLease)
        await owner.put(backend())
        await writer.change({PLACE + KEY: value})
        handing = asyncio.ensure_future(owner.handed_over())
        done, _ = await asyncio.wait({handing}, timeout=0.1)
        assert not done
        assert owner._takeovers.granted == {}
        assert (await contents(registry)).keys() == {KEY}
        handing.cancel()
        await owner.close()


async def test_a_key_that_is_put_after_it_was_asked_for_is_handed_over_as_well(url: str) -> None:
    """An owner whose lease was lost puts its records again under another lease, while the request stands."""
    async with opened(url) as registry, opened(url) as other:
        before, after = [await registry.open_lease("owner", within(20)) for _ in range(2)]
        asker = await other.open_lease("asker", within(20))
        assert isinstance(asker, EtcdLease)
        assert isinstance(after, EtcdLease)
        await before.put(backend())
        taking = asyncio.ensure_future(asker.take_over(backend(weight=9)))
        handing = asyncio.ensure_future(after.handed_over())
        await asyncio.wait({taking}, timeout=0.2)
        await after.put(backend())
        assert await asyncio.wait_for(handing, within(20)) == (KEY, "asker")
        await taking
        await asyncio.gather(before.close(), after.close(), asker.close())


async def test_a_request_for_a_key_of_another_owner_costs_nothing_while_nobody_answers(url: str) -> None:
    """Each owner of the registry sees the request, and an owner of an earlier version never answers."""
    async with opened(url) as registry, EtcdWriter(url) as writer:
        owner = await registry.open_lease("owner", within(20))
        assert isinstance(owner, EtcdLease)
        calls, call = [], owner._takeovers._client.call

        async def counted(*arguments: Any, **options: Any) -> Any:
            calls.append(arguments[0])
            return await call(*arguments, **options)

        owner._takeovers._client.call = counted  # type: ignore[method-assign]
        await writer.change({PLACE + KEY: Request("asker", "silent").encoded})
        handing = asyncio.ensure_future(owner.handed_over())
        await asyncio.wait({handing}, timeout=1.5)
        assert calls == [RANGE]
        handing.cancel()
        await owner.close()
