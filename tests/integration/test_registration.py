"""Registrations on a real etcd: what each difference costs, and an etcd that is away while the set changes."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import structlog
from etcds import etcd_of_its_own
from sampling import sampled

from discovery.codec import Record, decode
from discovery.model import Backend
from discovery.providing.registrar import Registrar
from discovery.registry import open_registry
from discovery.system.embedded import EmbeddedEtcd
from discovery.testing import backend, contents, eventually, within

__all__ = ["etcd_of_its_own"]

OWNER = "host-1"
RETURN_SECONDS = 10 * 2.0
"""Ten times the seconds that an idle machine takes at most; a gRPC channel that waits as it likes takes up to 120 s."""


@asynccontextmanager
async def registering(url: str, ttl: float, *backends: Backend) -> AsyncIterator[Registrar]:
    registry = open_registry(url)
    registrar = Registrar(registry, OWNER, ttl, structlog.get_logger())
    registrar.set(backends)
    running = asyncio.create_task(registrar.run())
    try:
        yield registrar
    finally:
        running.cancel()
        await asyncio.wait({running})
        await registry.close()


async def leave(url: str, *backends: Backend) -> None:
    """Register them, and end without withdrawing them, as a run does that is killed."""
    registry = open_registry(url)
    lease = await registry.open_lease(OWNER, 60)
    for each in backends:
        await lease.put(each)
    await registry.close()


async def standing(url: str) -> set[Backend]:
    registry = open_registry(url)
    try:
        records = [decode(key, value) for key, value in (await contents(registry)).items()]
    finally:
        await registry.close()
    return {record.backend for record in records if isinstance(record, Record)}


async def becomes(url: str, *backends: Backend, timeout: float = 10) -> None:
    async def stands() -> bool:
        return await asyncio.wait_for(standing(url), within(timeout)) == set(backends)

    await eventually(stands, f"{sorted(each.key for each in backends)} to be what stands", timeout)


def web(*numbers: int, weight: int = 1) -> list[Backend]:
    return [backend(id=str(number), port=1000 + number, weight=weight) for number in numbers]


def revision(etcd: EmbeddedEtcd) -> int:
    return int(json.loads(etcd.ctl("get", "x", "--write-out=json"))["header"]["revision"])


def lease_of(etcd: EmbeddedEtcd, key: str) -> int:
    return int(json.loads(etcd.ctl("get", f"/services/{key}", "--write-out=json"))["kvs"][0]["lease"])


async def test_the_revision_grows_by_one_for_each_difference_and_each_record_registered_again(
    etcd: EmbeddedEtcd,
) -> None:
    await leave(etcd.url, *web(1, 2, 3, 8, 9))
    at = revision(etcd)

    async def grew(by: int, *wanted: Backend) -> None:
        nonlocal at
        await eventually(lambda: registrar.status.registered == {each.key for each in wanted})
        await becomes(etcd.url, *wanted)
        assert revision(etcd) - at == by
        at += by

    async with registering(etcd.url, within(5), *web(1, 2, 3)) as registrar:
        await eventually(lambda: registrar.status.registered)
        await grew(3 + 2, *web(1, 2, 3))  # two were left that nobody wants
        for by, wanted in [
            (0, web(3, 2, 1)),
            (1, web(1, 2, 3, 4)),
            (1, [*web(1, 2, 3), *web(4, weight=7)]),
            (2, [*web(2, 3), *web(4, weight=8)]),
            (4, web(5)),
            (4, web(1, 2, 3, 5)[:3] + web(5) + web(6)),
        ]:
            registrar.set(wanted)
            await grew(by, *wanted)
        # The lease's end takes them all in one revision.
        lease = lease_of(etcd, "web/1")
        etcd.ctl("lease", "revoke", f"{lease:x}")
        await eventually(lambda: registrar.status.failing or lease_of(etcd, "web/1") != lease)
        await eventually(lambda: not registrar.status.failing)
        await grew(1 + 5, *web(1, 2, 3, 5, 6))
        # A record's removal costs it, and all of them again, since another lease takes over.
        lease = lease_of(etcd, "web/1")
        etcd.ctl("del", "/services/web/2")
        await eventually(lambda: lease_of(etcd, "web/1") != lease)
        await eventually(lambda: not registrar.status.failing)
        await grew(1 + 5, *web(1, 2, 3, 5, 6))
    assert revision(etcd) == at + 1


async def test_a_lease_that_ends_while_etcd_is_asked_for_something_is_known_to_be_lost(etcd: EmbeddedEtcd) -> None:
    async with registering(etcd.url, 2, *web(1)) as registrar:
        await eventually(lambda: registrar.status.registered)
        etcd.send_signal(signal.SIGSTOP)
        registrar.set(web(1, 2))
        await eventually(lambda: not registrar.status.registered, timeout=5)
        etcd.send_signal(signal.SIGCONT)
        await becomes(etcd.url, *web(1, 2), timeout=RETURN_SECONDS)


async def test_what_was_wanted_only_during_an_outage_is_never_written(etcd: EmbeddedEtcd) -> None:
    async with registering(etcd.url, 90, *web(1)) as registrar:
        await eventually(lambda: registrar.status.registered)
        before = revision(etcd)
        await asyncio.to_thread(etcd.kill)
        registrar.set(web(1, 2, 3))
        await eventually(lambda: registrar.status.failing, "the set to be written in vain", timeout=30)
        registrar.set(web(1, 4))
        await asyncio.to_thread(etcd.start)
        await becomes(etcd.url, *web(1, 4), timeout=RETURN_SECONDS)
        await eventually(lambda: registrar.status.registered == {"web/1", "web/4"})
        assert revision(etcd) == before + 1


@pytest.mark.parametrize("ttl", sampled([2, 90]), ids=["lease over", "lease lives on"])
@pytest.mark.parametrize("how", sampled(["killed", "stopped"]))
@pytest.mark.parametrize(
    "seconds", [5, pytest.param(60, marks=[pytest.mark.faults, pytest.mark.timeout(180)])], ids=["seconds", "a minute"]
)
async def test_an_etcd_that_was_away_while_the_set_changed_has_it_right_soon_after_its_return(
    etcd: EmbeddedEtcd, seconds: int, how: str, ttl: int
) -> None:
    async with registering(etcd.url, ttl, *web(1, 2, 3)) as registrar:
        await becomes(etcd.url, *web(1, 2, 3))
        if how == "killed":
            await asyncio.to_thread(etcd.kill)
        else:
            etcd.send_signal(signal.SIGSTOP)
        for step in range(10):
            await asyncio.sleep(seconds / 10)
            registrar.set(web(*range(step, step + 20)))
        if how == "killed":
            await asyncio.to_thread(etcd.start)
        else:
            etcd.send_signal(signal.SIGCONT)
        await becomes(etcd.url, *web(*range(9, 29)), timeout=RETURN_SECONDS)
        # On a busy machine the lease may expire again meanwhile; what it kept is registered again.
        await eventually(lambda: registrar.status.registered == {each.key for each in web(*range(9, 29))})
