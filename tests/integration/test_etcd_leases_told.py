"""Point 3. What a watch of etcd says of leases, histories and pauses, to a reader that has to judge removals."""

import asyncio
import signal
from collections.abc import Awaitable, Callable

import pytest
from etcd_versions import VERSIONS, etcd_program, every_etcd
from sampling import sampled

from discovery.registry import Delta, Registry, RegistryURL, open_registry
from discovery.registry.etcd.registry import EtcdRegistry
from discovery.registry.etcd.settings import EtcdSettings
from discovery.registry.etcd.ttls import DEFAULT_TTL
from discovery.registry.etcd.watch import Timing
from discovery.system.embedded import EmbeddedEtcd
from discovery.testing import Follower, backend, eventually, following, within

__all__ = ["etcd_program", "every_etcd"]

pytestmark = pytest.mark.timeout(240)


def follow(registry: Callable[[], Registry], check: Callable[[Follower, Registry], Awaitable[None]]) -> None:
    async def run() -> None:
        opened = registry()
        try:
            async with following(opened) as follower:
                await check(follower, opened)
        finally:
            await opened.close()

    asyncio.run(run())


def grant(etcd: EmbeddedEtcd, ttl: int) -> str:
    """A lease that another program holds."""
    return etcd.ctl("lease", "grant", str(ttl)).split()[1]


def look_ups(etcd: EmbeddedEtcd) -> float:
    try:
        return etcd.metric(
            'grpc_server_handled_total{grpc_code="OK",grpc_method="LeaseTimeToLive",'
            'grpc_service="etcdserverpb.Lease",grpc_type="unary"}'
        )
    except KeyError:
        return 0


@pytest.mark.parametrize("etcd_program", sampled(VERSIONS), indirect=True)
def test_the_lease_of_another_program_is_looked_up(every_etcd: EmbeddedEtcd) -> None:
    """Point 3. Its records state no TTL. One look-up for a lease, however many records it has."""
    lease = grant(every_etcd, 77)
    every_etcd.ctl("put", "/services/web/a", "10.0.0.1:80", f"--lease={lease}")
    every_etcd.ctl("put", "/services/web/b", "10.0.0.1:81")

    async def check(follower: Follower, registry: Registry) -> None:
        assert follower.leases == {"web/a": DEFAULT_TTL}
        await follower.until(lambda: follower.leases == {"web/a": 77}, timeout=60)
        await asyncio.to_thread(every_etcd.ctl, "put", "/services/web/c", "10.0.0.1:82", f"--lease={lease}")
        await follower.until(lambda: follower.leases == {"web/a": 77, "web/c": 77}, timeout=60)
        other = await asyncio.to_thread(grant, every_etcd, 88)
        await asyncio.to_thread(every_etcd.ctl, "put", "/services/web/c", "10.0.0.1:82", f"--lease={other}")
        await follower.until(lambda: follower.leases == {"web/a": 77, "web/c": 88}, timeout=60)
        await asyncio.to_thread(every_etcd.ctl, "put", "/services/web/c", "10.0.0.1:82")
        await follower.until(lambda: follower.leases == {"web/a": 77}, timeout=60)
        assert look_ups(every_etcd) == 2

    follow(lambda: open_registry(f"{every_etcd.url}/services"), check)


def test_our_own_records_state_their_ttl_and_cost_no_look_up(every_etcd: EmbeddedEtcd) -> None:
    """Point 3."""

    async def check(follower: Follower, registry: Registry) -> None:
        lease = await registry.open_lease("host-1", 60)
        for number in range(20):
            await lease.put(backend(id=f"b{number}"))
        keys = {f"web/b{number}" for number in range(20)}
        await follower.until(lambda: follower.leases == dict.fromkeys(keys, 60), timeout=60)
        assert look_ups(every_etcd) == 0
        async with following(registry) as another:
            assert another.leases == dict.fromkeys(keys, 60)
        assert look_ups(every_etcd) == 0
        await lease.close()

    follow(lambda: open_registry(f"{every_etcd.url}/services"), check)


@pytest.mark.parametrize("etcd_program", sampled(VERSIONS), indirect=True)
def test_a_store_that_was_lost_is_another_history(every_etcd: EmbeddedEtcd) -> None:
    """Point 3. Even when it has as many revisions as the one before, and the same cluster id."""
    for number in range(3):
        every_etcd.ctl("put", f"/services/web/b{number}", "10.0.0.1:80")

    async def check(follower: Follower, registry: Registry) -> None:
        every_etcd.kill()
        every_etcd.wipe()
        await asyncio.to_thread(every_etcd.start, wait=False)
        await asyncio.to_thread(every_etcd.wait_ready)
        for number in range(6):
            await asyncio.to_thread(every_etcd.ctl, "put", f"/services/other/b{number}", "10.0.0.1:80")
        await follower.until(lambda: len(follower.records or {}) == 6, timeout=60)
        first, second = follower.resets[0], follower.resets[-1]
        assert first.history is not None
        assert second.history is not None
        went_back = second.revision < first.revision or second.history.term < first.history.term
        assert second.another or went_back or first.history.store != second.history.store

    follow(lambda: open_registry(f"{every_etcd.url}/services"), check)


@pytest.mark.parametrize("etcd_program", sampled(VERSIONS), indirect=True)
def test_a_member_that_stood_still_is_reported_although_its_stream_goes_on(every_etcd: EmbeddedEtcd) -> None:
    """Point 3. What comes after the pause may be leases that expired only because of it."""
    settings = EtcdSettings.from_url(RegistryURL.parse(f"{every_etcd.url}/services"))
    timing = Timing(idle=0.3, answer=15, pause=1.5)

    async def check(follower: Follower, registry: Registry) -> None:
        every_etcd.send_signal(signal.SIGSTOP)
        # The fault is a length of time. A client that a busy machine starves reads late what came before.
        await asyncio.sleep(2.6 + within(0.4))
        every_etcd.send_signal(signal.SIGCONT)
        told = len(follower.deltas)
        await eventually(lambda: len(follower.deltas) > told, "the watch to go on", timeout=90)
        assert isinstance(follower.deltas[-1], Delta)
        assert len(follower.resets) == 1
        # The latter if a request was under way, too, for longer than that may take.
        reasons = ("no response for", "no answer in time")
        assert any(words in reason for words in reasons for reason in follower.stales), follower.stales

    follow(lambda: EtcdRegistry(settings, timing), check)
