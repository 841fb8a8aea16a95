"""The registrar on a registry in memory: whatever happens meanwhile, the registry ends as it was told."""

import asyncio
from collections.abc import Collection, Iterable

import structlog
from hypothesis import given, settings
from hypothesis import strategies as st

from discovery.errors import OwnedByAnotherError, RegistryUnavailableError
from discovery.model import Backend
from discovery.providing.registrar import Registrar, RegistrarStatus
from discovery.registry import Delta
from discovery.registry.memory import MemoryLease, MemoryRegistry
from discovery.testing import backend, eventually

from .registrars import (
    OTHERS,
    SOON,
    A,
    B,
    C,
    becomes,
    keys,
    leave,
    registering,
)


async def test_it_follows_the_set_with_one_write_for_each_difference_and_withdraws_at_the_end() -> None:
    registry = MemoryRegistry()
    async with registering(registry, A, B) as registrar:
        await becomes(registry, A, B)
        assert registry.revision == 3
        heavier = backend(id="b", port=2, weight=7)
        registrar.set([heavier, C])
        await becomes(registry, heavier, C)
        assert registry.revision == 6
        registrar.set([C, heavier])
        await asyncio.sleep(0)
        await eventually(lambda: registrar.status.registered == keys(heavier, C).keys())
        assert registry.revision == 6
    assert registry.records == {}


async def test_what_is_registered_and_withdrawn_is_told() -> None:
    registry = MemoryRegistry()
    with structlog.testing.capture_logs() as logs:
        async with registering(registry, A, B) as registrar:
            await eventually(lambda: registrar.status.registered == keys(A, B).keys())  # and told, not only written
            registrar.set([B])
            await eventually(lambda: ("withdrawn", "web/a") in [(log["event"], log["key"]) for log in logs])
    assert [(log["event"], log["key"]) for log in logs] == [
        ("registered", "web/a"),
        ("registered", "web/b"),
        ("withdrawn", "web/a"),
    ]


async def test_a_lost_record_is_back_and_its_neighbour_was_never_away() -> None:
    registry = MemoryRegistry()
    async with registering(registry, A, B) as registrar:
        await becomes(registry, A, B)
        removed: list[frozenset[str]] = []

        async def follow() -> None:
            async for event in registry.watch():
                removed.extend([event.deletes] if isinstance(event, Delta) and event.deletes else [])

        following = asyncio.create_task(follow())
        await asyncio.sleep(0)
        first = registry.holder("web/b")
        registry.delete_raw("web/a")
        await eventually(lambda: registry.holder("web/b") is not first)
        await becomes(registry, A, B)
        await eventually(lambda: registrar.status == RegistrarStatus(frozenset(keys(A, B))))
        following.cancel()
        assert removed == [frozenset({"web/a"})]


async def test_an_expired_lease_is_followed_by_another() -> None:
    registry = MemoryRegistry()
    async with registering(registry, A):
        await becomes(registry, A)
        first = registry.holder("web/a")
        assert first is not None
        first.freeze()
        await eventually(lambda: registry.holder("web/a") not in (None, first))
        await becomes(registry, A)


async def test_another_owners_key_is_left_alone_reported_once_and_taken_when_free() -> None:
    registry = MemoryRegistry()
    registry.put_raw("web/a", OTHERS)
    with structlog.testing.capture_logs() as logs:
        async with registering(registry, A, B) as registrar:
            await becomes(registry, B)
            await eventually(lambda: isinstance(registrar.status.failing.get("web/a"), OwnedByAnotherError))
            await asyncio.sleep(0.2)  # several retries, which show nothing
            assert registry.records["web/a"] == OTHERS
            assert [log["key"] for log in logs if log["log_level"] == "warning"] == ["web/a"]
            registry.delete_raw("web/a")
            await becomes(registry, A, B)
            await eventually(lambda: not registrar.status.failing)


async def test_force_takes_it() -> None:
    registry = MemoryRegistry()
    registry.put_raw("web/a", OTHERS)
    async with registering(registry, A, force=True):
        await becomes(registry, A)


async def test_it_takes_a_key_by_force_once_and_leaves_it_to_who_takes_it_back() -> None:
    """Point 4. Two that force would take it from each other forever."""
    registry = MemoryRegistry()
    async with registering(registry, A, B, force=True) as registrar:
        await becomes(registry, A, B)
        registry.put_raw("web/a", OTHERS)
        await eventually(lambda: isinstance(registrar.status.failing.get("web/a"), OwnedByAnotherError))
        await becomes(registry, B)
        assert registry.records["web/a"] == OTHERS


class _PlainLease:
    """A lease as the protocol asks for it, and no more: it cannot tell when a key is free."""

    def __init__(self, lease: MemoryLease) -> None:
        self.owner, self.ttl = lease.owner, lease.ttl
        self.put, self.delete, self.sweep = lease.put, lease.delete, lease.sweep
        self.lost, self.close = lease.lost, lease.close


class _PlainRegistry(MemoryRegistry):
    async def open_lease(self, owner: str, ttl: float) -> _PlainLease:  # type: ignore[override]
        return _PlainLease(await super().open_lease(owner, ttl))


async def test_a_refused_key_is_tried_again_every_ttl_where_the_registry_cannot_tell_when_it_is_free() -> None:
    """Point 4."""
    registry = _PlainRegistry()
    registry.put_raw("web/a", OTHERS)
    async with registering(registry, A, B) as registrar:
        await eventually(lambda: isinstance(registrar.status.failing.get("web/a"), OwnedByAnotherError))
        registry.delete_raw("web/a")
        await becomes(registry, A, B)


async def test_a_refused_key_is_registered_the_moment_it_is_free() -> None:
    """Point 4."""
    registry = MemoryRegistry()
    registry.put_raw("web/a", OTHERS)
    async with registering(registry, A, B, ttl=3600) as registrar:
        await eventually(lambda: isinstance(registrar.status.failing.get("web/a"), OwnedByAnotherError))
        registry.delete_raw("web/a")
        await becomes(registry, A, B)


async def test_a_lease_that_says_without_reason_that_a_key_is_free_makes_no_busy_loop() -> None:
    """Point 4. The registry may be a plugin's."""
    tries: list[float] = []

    class Eager(MemoryLease):
        async def put(self, backend: Backend, *, force: bool = False) -> None:
            tries.append(asyncio.get_running_loop().time())
            await super().put(backend, force=force)

        async def until_free(self, keys: Collection[str]) -> None:
            pass

    class Registry(MemoryRegistry):
        async def open_lease(self, owner: str, ttl: float) -> MemoryLease:
            return Eager(self, owner, ttl)

    registry = Registry()
    registry.put_raw("web/a", OTHERS)
    async with registering(registry, A, ttl=3600):
        await eventually(lambda: len(tries) == 10)
    assert tries[-1] - tries[0] > 0.4


async def test_a_registry_that_is_away_at_first_gets_it_later() -> None:
    registry = MemoryRegistry()
    registry.set_stale("gone")
    async with registering(registry, A) as registrar:
        await eventually(lambda: isinstance(registrar.status.failing.get("web/a"), RegistryUnavailableError))
        registry.set_fresh()
        await becomes(registry, A)
        await eventually(lambda: registrar.status == RegistrarStatus(frozenset({"web/a"})))


async def test_changes_during_an_outage_are_made_after_it() -> None:
    registry = MemoryRegistry()
    async with registering(registry, A, B) as registrar:
        await becomes(registry, A, B)
        registry.set_stale("gone")
        registrar.set([B, C])
        await eventually(lambda: "web/c" in registrar.status.failing)
        assert registrar.status.registered == {"web/b"}
        registry.set_fresh()
        await becomes(registry, B, C)


_BACKENDS = st.sets(st.sampled_from(["a", "b", "c"])).map(lambda ids: [backend(id=id_, port=ord(id_)) for id_ in ids])
_HAPPENINGS = st.one_of(
    st.tuples(st.just("set"), _BACKENDS),
    st.tuples(st.sampled_from(["delete", "steal", "expire"]), st.sampled_from(["web/a", "web/b", "web/c"])),
    st.tuples(st.sampled_from(["stale", "fresh", "wait"]), st.none()),
)


@settings(deadline=None)
@given(left=_BACKENDS, happenings=st.lists(_HAPPENINGS, max_size=8), final=_BACKENDS)
def test_whatever_happens_the_registry_ends_as_wanted(
    left: list[Backend], happenings: Iterable[tuple[str, object]], final: list[Backend]
) -> None:
    async def scenario() -> None:
        registry = MemoryRegistry()
        await leave(registry, *left)
        async with registering(registry) as registrar:
            for what, argument in happenings:
                match what, argument:
                    case "set", list(backends):
                        registrar.set(backends)
                    case "delete", str(key):
                        registry.delete_raw(key)
                    case "steal", str(key):
                        registry.put_raw(key, OTHERS)
                    case "expire", str(key) if holder := registry.holder(key):
                        holder.freeze()
                    case "stale", _:
                        registry.set_stale("gone")
                    case "fresh", _:
                        registry.set_fresh()
                await asyncio.sleep(0.005 if what == "wait" else 0)
            registry.set_fresh()
            registrar.set(final)
            for key in [key for key, value in registry.records.items() if value == OTHERS]:
                registry.delete_raw(key)
            await becomes(registry, *final)
            await eventually(lambda: registrar.status == RegistrarStatus(frozenset(keys(*final))))
        assert registry.records == {}

    asyncio.run(scenario())


async def test_what_an_earlier_run_left_is_removed_although_it_was_wanted_for_a_moment() -> None:
    """Wanted while the sweep begins, and not any more before it is written under the present lease."""
    registrar: Registrar

    class Lease(MemoryLease):
        async def sweep(self, keep: Collection[str], among: Collection[str] | None = None) -> frozenset[str]:
            swept = await super().sweep(keep, among)
            registrar.set([A])
            return swept

    class Registry(MemoryRegistry):
        async def open_lease(self, owner: str, ttl: float) -> MemoryLease:
            return Lease(self, owner, ttl)

    def changed(status: RegistrarStatus) -> None:
        if status.registered == {"web/a"} and not told:
            told.append(True)
            registrar.set([A, C])

    told: list[bool] = []
    registry = Registry()
    left = MemoryLease(registry, "me", 60)
    await left.put(C)
    registrar = Registrar(registry, "me", 3600, structlog.get_logger(), changed=changed, retries=SOON)
    registrar.set([A])
    running = asyncio.create_task(registrar.run())
    await eventually(lambda: told)
    await becomes(registry, A)
    running.cancel()
    await asyncio.wait((running,))


class _LostAnswers(MemoryLease):
    """Writes whose answer is lost: they are carried out, and fail all the same, as long as `lossy`."""

    lossy = True

    async def put(self, backend: Backend, *, force: bool = False) -> None:
        await super().put(backend, force=force)
        if self.lossy:
            raise RegistryUnavailableError("no answer in time")


class _LossyRegistry(MemoryRegistry):
    lease: _LostAnswers

    async def open_lease(self, owner: str, ttl: float) -> MemoryLease:
        self.lease = _LostAnswers(self, owner, ttl)
        return self.lease


async def test_a_write_whose_answer_was_lost_is_taken_back_when_it_is_no_longer_wanted() -> None:
    registry = _LossyRegistry()
    async with registering(registry, A) as registrar:
        await eventually(lambda: "web/a" in registrar.status.failing)
        await becomes(registry, A)
        registry.lease.lossy = False
        registrar.set([])
        await becomes(registry)
        registrar.set([A])
        await becomes(registry, A)
        registry.lease.lossy = True
        registrar.set([heavier := backend(id="a", port=1, weight=7)])
        await becomes(registry, heavier)
        await eventually(lambda: "web/a" in registrar.status.failing)
        registry.lease.lossy = False
        registrar.set([A])
        await becomes(registry, A)
        await eventually(lambda: registrar.status == RegistrarStatus(frozenset({"web/a"})))


async def test_a_withdrawal_that_fails_is_told_and_does_not_hide_the_end() -> None:
    class Lease(MemoryLease):
        async def close(self) -> None:
            raise RegistryUnavailableError("it is away")

    class Registry(MemoryRegistry):
        async def open_lease(self, owner: str, ttl: float) -> MemoryLease:
            return Lease(self, owner, ttl)

    with structlog.testing.capture_logs() as logs:
        async with registering(Registry(), A) as registrar:
            await eventually(lambda: registrar.status.registered == keys(A).keys())
    told = {log["event"]: log.get("reason") for log in logs}
    assert told["the records are not withdrawn, and stand until their TTL is over"] == "it is away"
