"""The etcd registry on a real etcd: the contract, sizes, owners, leases, and a server that comes and goes."""

import asyncio
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from etcd_versions import VERSIONS, etcd_program, every_etcd
from etcds import etcd, following_from_the_start, opened, url
from sampling import sampled

from discovery.errors import LeaseLostError, OwnedByAnotherError, RegistryUnavailableError
from discovery.registry import Lease, Registry, Reset, open_registry
from discovery.registry.etcd import EtcdSettings, records
from discovery.registry.etcd.client import Client
from discovery.registry.etcd.connection import Connection
from discovery.registry.etcd.failures import MemberUnavailableError
from discovery.registry.etcd.login import Tokens
from discovery.registry.etcd.messages import (
    LEASE_KEEP_ALIVE,
    LEASE_REVOKE,
    TXN,
    LeaseRevokeRequest,
    Message,
    Method,
    TxnRequest,
)
from discovery.system.embedded import EmbeddedEtcd
from discovery.testing import (
    RegistryContract,
    backend,
    contents,
    eventually,
    following,
    free_port,
    within,
)
from discovery.testing.etcd import EtcdWriter

__all__ = ["etcd", "etcd_program", "every_etcd", "url"]

KEY = backend().key


@pytest.fixture(scope="module")
def shared_etcd(etcd_program: Path) -> Iterator[EmbeddedEtcd]:
    """A running server of each version, for tests that keep to a prefix of their own."""
    with EmbeddedEtcd(program=etcd_program) as etcd:
        yield etcd


class TestContract(RegistryContract):
    """Point 1. On every version."""

    ttl = within(3.0)
    """A registrar renews a lease after a third of its TTL: of 2 s, a busy machine took more than the rest."""

    @pytest.fixture(autouse=True)
    def _place(self, shared_etcd: EmbeddedEtcd) -> None:
        self.url = f"{shared_etcd.url}/{uuid.uuid4().hex}"

    def open(self) -> Registry:
        return open_registry(self.url)

    async def write(self, key: str, value: bytes) -> None:
        async with EtcdWriter(self.url) as writer:
            await writer.change({key: value})

    async def remove(self, key: str) -> None:
        async with EtcdWriter(self.url) as writer:
            await writer.change({}, key)

    async def expire(self, lease: Lease) -> None:
        async with EtcdWriter(self.url) as writer:
            await writer.client.call(LEASE_REVOKE, LeaseRevokeRequest(ID=lease._number))  # type: ignore[attr-defined]


class TestSizes:
    async def test_more_keys_than_a_page_are_listed_though_compacted_meanwhile(
        self, etcd: EmbeddedEtcd, url: str
    ) -> None:
        expected = {f"s{n % 50}/{n}": b"x" * (n % 700) for n in range(12_000)}
        async with EtcdWriter(url) as writer, opened(url) as registry:
            keys = list(expected)
            for at in range(0, len(keys), 120):
                last = await writer.change({key: expected[key] for key in keys[at : at + 120]})
            listed = asyncio.ensure_future(contents(registry))
            # Anywhere in the listing: before its first page, between its pages, after them.
            for later in range(8):
                revision = await writer.change({"other/x": str(later).encode()})
                await asyncio.to_thread(etcd.ctl, "compact", str(revision))
            found = await listed
            found.pop("other/x", None)
            assert last
            assert found == expected

    async def test_large_transactions_come_whole_though_in_fragments(self, url: str) -> None:
        large = {f"web/{n}": bytes([65 + n % 26]) * 14_000 for n in range(100)}
        async with EtcdWriter(url) as writer, opened(url) as registry, following(registry) as follower:
            for step in range(3):
                values = {key: value + bytes([48 + step]) for key, value in large.items()}
                revision = await writer.change(values)
                await follower.until(lambda at=revision: follower.revision == at)  # type: ignore[misc]
                assert follower.deltas[-1].puts == values
            assert len(follower.deltas) == 3

    async def test_more_than_grpc_takes_by_default_is_listed_and_caught_up_with(self, url: str) -> None:
        big = {f"web/{n}": bytes([65 + n]) * 1_000_000 for n in range(12)}
        async with EtcdWriter(url) as writer, opened(url) as registry:
            for key, value in big.items():
                await writer.change({key: value})
            assert await contents(registry) == big
            events = registry.watch()
            first = await anext(events)
            assert first == Reset(first.revision, big)  # type: ignore[union-attr]
            # The watch begins only when it is asked for more, and then has to catch up.
            for key, value in big.items():
                await writer.change({key: value[::-1] + b"!"})
            caught = [await anext(events) for _ in big]
            assert [dict(delta.puts) for delta in caught] == [  # type: ignore[union-attr]
                {key: value[::-1] + b"!"} for key, value in big.items()
            ]
            await events.aclose()


class TestOwnership:
    async def test_the_refusal_names_the_owner_or_says_that_there_is_none(self, url: str) -> None:
        async with EtcdWriter(url) as writer, opened(url) as registry:
            await writer.change({"web/hand": b"10.0.0.1:80"})
            first, second = [await registry.open_lease(owner, within(2)) for owner in ("host-1", "host-2")]
            await first.put(backend())
            with pytest.raises(OwnedByAnotherError, match="belongs to 'host-1'"):
                await second.put(backend())
            with pytest.raises(OwnedByAnotherError, match="written by hand"):
                await second.put(backend(id="hand"))
            await second.put(backend(id="hand"), force=True)
            await first.close()
            await second.close()
            assert await contents(registry) == {}

    async def test_many_racing_for_one_key_agree_on_one_owner(self, url: str) -> None:
        async with opened(url) as registry:
            leases = [await registry.open_lease(f"host-{n}", within(5)) for n in range(8)]
            outcomes = await asyncio.gather(*(lease.put(backend()) for lease in leases), return_exceptions=True)
            assert sum(outcome is None for outcome in outcomes) == 1
            assert all(outcome is None or isinstance(outcome, OwnedByAnotherError) for outcome in outcomes)
            await asyncio.gather(*(lease.close() for lease in leases))

    async def test_more_records_than_one_transaction_takes_are_looked_after(self, url: str) -> None:
        async with EtcdWriter(url) as writer, opened(url) as registry:
            lease = await registry.open_lease("host-1", within(2))
            for n in range(150):
                await lease.put(backend(id=str(n)))
            lost = asyncio.ensure_future(lease.lost())
            await asyncio.sleep(lease.ttl)  # a record that nobody looks after would have expired
            assert not lost.done()
            await writer.change({}, "web/149")
            assert "web/149" in await asyncio.wait_for(lost, within(10))
            await lease.close()


class TestServerThatComesAndGoes:
    async def test_a_watch_begun_before_the_server_tells_that_and_follows_once_it_is_there(self) -> None:
        etcd = EmbeddedEtcd()
        try:
            async with opened(etcd.url) as registry, following_from_the_start(registry) as follower:
                await follower.until(lambda: follower.stale, "Stale")
                assert etcd.endpoint in (follower.stale or "")
                assert "is etcd running there?" in (follower.stale or "")
                assert follower.records is None
                await asyncio.to_thread(etcd.start)
                await follower.until(lambda: follower.records == {}, "the first listing")
                assert follower.stale is None
        finally:
            etcd.stop()

    @pytest.mark.costly
    @pytest.mark.parametrize("etcd_program", sampled(VERSIONS), indirect=True)
    @pytest.mark.parametrize("compacted", [False, True])
    async def test_an_outage_without_a_change_ends_without_a_listing(
        self, every_etcd: EmbeddedEtcd, compacted: bool
    ) -> None:
        """Also where everything before the known revision is compacted, from which the watch goes on."""
        async with EtcdWriter(every_etcd.url) as writer, opened(every_etcd.url) as registry:
            await writer.change({"web/a": b"0", "web/b": b"0"})
            revision = await writer.change({"web/a": b"1"}, "web/b")
            async with following(registry) as follower:
                if compacted:
                    await asyncio.to_thread(every_etcd.ctl, "compact", str(revision))
                await asyncio.to_thread(every_etcd.kill)
                await follower.until(lambda: follower.stale, "Stale")
                await asyncio.to_thread(every_etcd.start)
                await follower.until(lambda: follower.stale is None, "the end of it")
                assert [(delta.revision, delta.puts) for delta in follower.deltas] == [(revision, {})]
                await writer.change({"web/a": b"2"})
                await follower.sees("web/a", b"2")

    @pytest.mark.parametrize("writes", [0, 40], ids=["lower revisions", "higher revisions"])
    async def test_a_cluster_made_anew_is_listed_anew(self, writes: int) -> None:
        new = {f"web/{n}": b"new" for n in range(writes)}
        with EmbeddedEtcd() as etcd:
            async with EtcdWriter(etcd.url) as writer, opened(etcd.url) as registry:
                for n in range(20):
                    await writer.change({f"web/{n}": b"old"})
                async with following(registry) as follower:
                    assert len(follower.records or {}) == 20
                    await asyncio.to_thread(etcd.kill)
                    etcd.wipe()
                    await follower.until(lambda: follower.stale, "Stale")
                    # It is filled on another port, so that nobody sees it grow.
                    port, etcd.port = etcd.port, free_port()
                    await asyncio.to_thread(etcd.start)
                    async with EtcdWriter(etcd.url) as other:
                        for key, value in new.items():
                            await other.change({key: value})
                    await asyncio.to_thread(etcd.kill)
                    etcd.port = port
                    await asyncio.to_thread(etcd.start)
                    await follower.shows(new)
                    assert follower.deltas == []

    async def test_a_compaction_past_what_is_known_is_listed_anew(self) -> None:
        with EmbeddedEtcd() as etcd:
            async with EtcdWriter(etcd.url) as writer, opened(etcd.url) as registry:
                await writer.change({"web/a": b"1", "web/b": b"1"})
                events = registry.watch()
                assert (await anext(events)).records == {"web/a": b"1", "web/b": b"1"}  # type: ignore[union-attr]
                await writer.change({"web/a": b"2"}, "web/b")
                revision = await writer.change({"web/c": b"1"})
                await asyncio.to_thread(etcd.ctl, "compact", str(revision))
                assert await anext(events) == Reset(revision, {"web/a": b"2", "web/c": b"1"})
                await events.aclose()

    async def test_a_call_to_nobody_names_the_members(self) -> None:
        endpoints = [f"127.0.0.1:{free_port()}" for _ in range(2)]
        client = Client(EtcdSettings(tuple(endpoints)))
        with pytest.raises(RegistryUnavailableError) as caught:
            await client.call(TXN, TxnRequest(), timeout=0.5)
        assert all(endpoint in str(caught.value) for endpoint in endpoints)
        assert "connection refused" in str(caught.value)
        await client.close()

    async def test_a_name_that_cannot_be_looked_up_is_told(self) -> None:
        async with (
            opened("etcd://no-such-host.invalid") as registry,
            following_from_the_start(registry) as follower,
        ):
            await follower.until(lambda: follower.stale, "Stale")
            assert "etcd no-such-host.invalid:2379: its name cannot be resolved" in (follower.stale or "")

    async def test_a_closed_registry_says_so(self, url: str) -> None:
        async with opened(url) as registry:
            await registry.close()
            with pytest.raises(RegistryUnavailableError, match="closed"):
                await registry.open_lease("host-1", 2)


class TestLease:
    async def test_an_owner_that_was_suspended_learns_at_once_that_its_time_is_over(self, url: str) -> None:
        async with opened(url) as registry:
            lease = await registry.open_lease("host-1", within(2))
            await lease.put(backend())
            time.sleep(lease.ttl + 1)  # noqa: ASYNC251 - as if the process had been stopped
            assert "expired" in await asyncio.wait_for(lease.lost(), within(1))
            with pytest.raises(LeaseLostError, match="put every record again"):
                await lease.put(backend())

    async def test_a_lease_that_was_long_in_coming_has_its_whole_time(self) -> None:
        with EmbeddedEtcd() as etcd:
            async with opened(etcd.url) as registry:
                await asyncio.to_thread(etcd.kill)
                # Not `within`: the call gives up after 8 s, however patient the tests are.
                opening = asyncio.ensure_future(registry.open_lease("host-1", ttl := 4.0))
                await asyncio.sleep(ttl + 0.2)  # the fault is a length of time: longer than the lease
                await asyncio.to_thread(etcd.start)
                lease = await opening
                lost = asyncio.ensure_future(lease.lost())
                await asyncio.sleep(lease.ttl)  # a lease whose time began with the request would have expired
                assert not lost.done()
                await lease.close()

    async def test_an_unreachable_server_costs_the_lease_only_after_its_time(self) -> None:
        with EmbeddedEtcd() as etcd:
            async with opened(etcd.url) as registry, following(registry) as follower:
                lease = await registry.open_lease("host-1", within(3))
                await lease.put(backend())
                await follower.lists(KEY)
                lost = asyncio.ensure_future(lease.lost())
                await asyncio.to_thread(etcd.kill)
                await asyncio.sleep(0.5)  # the fault is a length of time: shorter than the lease
                assert not lost.done()
                await asyncio.to_thread(etcd.start)
                await follower.until(lambda: follower.stale is None)
                await asyncio.sleep(lease.ttl)  # a lease that is not kept alive again would have expired
                assert not lost.done()
                assert follower.records
                assert KEY in follower.records
                await asyncio.to_thread(etcd.kill)
                assert "expired" in await asyncio.wait_for(lost, within(15))
                await lease.close()


@pytest.mark.parametrize("end", ["closed", "cancelled", "left"])
def test_a_watch_that_ends_leaves_nothing_behind(etcd: EmbeddedEtcd, end: str) -> None:
    """In a process of its own: whatever way it ends, it ends at once and says nothing."""
    script = f"""
import asyncio
from discovery.registry import open_registry
async def begin():
    registry = open_registry("{etcd.url}/x")
    events = registry.watch()
    await anext(events)
    lease = await registry.open_lease("o", 5)
    return registry, events, lease
async def closed():
    registry, events, lease = await begin()
    await events.aclose(); await lease.close(); await registry.close()
async def cancelled():
    registry, events, lease = await begin()
    task = asyncio.ensure_future(anext(events))
    await asyncio.sleep(0.1)  # the moment of the cancellation is the case: while the watch is open
    task.cancel()
    await asyncio.wait([task])
async def left():
    await begin()
asyncio.run({end}())
"""
    command = [sys.executable, "-W", "error", "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=within(30), check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


async def test_a_lease_of_many_records_is_kept_alive_by_a_slow_cluster(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    call, asked = Client.call, []

    async def slowly(self: Client, method: Method, request: Message, **limits: float) -> Message:
        asked.append(method)
        if method is TXN:
            await asyncio.sleep(within(0.25))
        return await call(self, method, request, **limits)

    async with opened(url) as registry:
        lease = await registry.open_lease("host-1", within(2))
        for port in range(1, 11):
            await lease.put(backend(port=port))
        monkeypatch.setattr(records, "_CHUNK", 1)
        monkeypatch.setattr(Client, "call", slowly)
        lost = asyncio.ensure_future(lease.lost())
        await eventually(lambda: lost.done() or asked.count(LEASE_KEEP_ALIVE) > 2)
        assert not lost.done()
        lost.cancel()
        await lease.close()


@pytest.mark.costly
async def test_a_call_on_a_connection_that_was_closed_meanwhile_is_a_members_failure(etcd: EmbeddedEtcd) -> None:
    connection = Connection(etcd.endpoint, Tokens(None))
    await connection.close()
    for method in (TXN, LEASE_KEEP_ALIVE):
        with pytest.raises(MemberUnavailableError, match="the connection was closed"):
            await connection.call(method, method.request(), 1)
