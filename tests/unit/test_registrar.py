"""The registrar on a registry in memory: whatever happens meanwhile, the registry ends as it was told."""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Iterable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st

from discovery import registrar as module
from discovery.codec import Record, decode, key_of
from discovery.errors import AccessDeniedError, OwnedByAnotherError, RegistryError, RegistryUnavailableError
from discovery.model import Backend
from discovery.registrar import Registrar, Status, machine_id
from discovery.registry import Delta
from discovery.registry.memory import MemoryLease, MemoryRegistry
from discovery.testing import backend, eventually

A, B, C = backend(id="a", port=1), backend(id="b", port=2), backend(id="c", port=3)
OTHERS = b'{"host": "10.0.0.1", "port": 9, "owner": "other"}'


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_FIRST_DELAY", 0.01)
    monkeypatch.setattr(module, "_MOST_DELAY", 0.05)


@asynccontextmanager
async def registering(
    registry: MemoryRegistry, *backends: Backend, force: bool = False, sweep: bool = True
) -> AsyncIterator[Registrar]:
    registrar = Registrar(registry, "me", 0.05, structlog.get_logger(), force=force, sweep=sweep)
    registrar.set(backends)
    running = asyncio.create_task(registrar.run())
    try:
        yield registrar
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running


def standing(registry: MemoryRegistry) -> dict[str, Backend]:
    records = {key: decode(key, value) for key, value in registry.records.items()}
    return {key: each.backend for key, each in records.items() if isinstance(each, Record) and each.owner == "me"}


def keys(*backends: Backend) -> dict[str, Backend]:
    return {f"{each.service}/{each.id}": each for each in backends}


async def leave(registry: MemoryRegistry, *backends: Backend) -> MemoryLease:
    """What a run that was killed leaves."""
    lease = await registry.open_lease("me", 60)
    for each in backends:
        await lease.put(each)
    return lease


async def becomes(registry: MemoryRegistry, *backends: Backend) -> None:
    await eventually(lambda: standing(registry) == keys(*backends))


def test_it_follows_the_set_with_one_write_for_each_difference_and_withdraws_at_the_end() -> None:
    async def scenario() -> None:
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

    asyncio.run(scenario())


def test_a_lost_record_is_back_and_its_neighbour_was_never_away() -> None:
    async def scenario() -> None:
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
            await eventually(lambda: registrar.status == Status(frozenset(keys(A, B))))
            following.cancel()
            assert removed == [frozenset({"web/a"})]

    asyncio.run(scenario())


def test_an_expired_lease_is_followed_by_another() -> None:
    async def scenario() -> None:
        registry = MemoryRegistry()
        async with registering(registry, A):
            await becomes(registry, A)
            first = registry.holder("web/a")
            assert first is not None
            first.freeze()
            await eventually(lambda: registry.holder("web/a") not in (None, first))
            await becomes(registry, A)

    asyncio.run(scenario())


def test_another_owners_key_is_left_alone_reported_once_and_taken_when_free() -> None:
    async def scenario() -> None:
        registry = MemoryRegistry()
        registry.put_raw("web/a", OTHERS)
        with structlog.testing.capture_logs() as logs:
            async with registering(registry, A, B) as registrar:
                await becomes(registry, B)
                await eventually(lambda: isinstance(registrar.status.failing.get("web/a"), OwnedByAnotherError))
                await asyncio.sleep(0.2)  # several retries
                assert registry.records["web/a"] == OTHERS
                assert [log["key"] for log in logs if log["log_level"] == "warning"] == ["web/a"]
                registry.delete_raw("web/a")
                await becomes(registry, A, B)
                await eventually(lambda: not registrar.status.failing)

    asyncio.run(scenario())


def test_force_takes_it() -> None:
    async def scenario() -> None:
        registry = MemoryRegistry()
        registry.put_raw("web/a", OTHERS)
        async with registering(registry, A, force=True):
            await becomes(registry, A)

    asyncio.run(scenario())


def test_a_registry_that_is_away_at_first_gets_it_later() -> None:
    async def scenario() -> None:
        registry = MemoryRegistry()
        registry.set_stale("gone")
        async with registering(registry, A) as registrar:
            await eventually(lambda: isinstance(registrar.status.failing.get("web/a"), RegistryUnavailableError))
            registry.set_fresh()
            await becomes(registry, A)
            await eventually(lambda: registrar.status == Status(frozenset({"web/a"})))

    asyncio.run(scenario())


def test_changes_during_an_outage_are_made_after_it() -> None:
    async def scenario() -> None:
        registry = MemoryRegistry()
        async with registering(registry, A, B) as registrar:
            await becomes(registry, A, B)
            registry.set_stale("gone")
            registrar.set([B, C])
            await eventually(lambda: "web/c" in registrar.status.failing)
            assert registrar.status.registered == {"web/b"}
            registry.set_fresh()
            await becomes(registry, B, C)

    asyncio.run(scenario())


def test_nothing_happens_to_what_an_earlier_run_left_before_the_first_set() -> None:
    async def scenario() -> None:
        registry = _RecordingRegistry()
        await leave(registry, A, B)
        registrar = Registrar(registry, "me", 60, structlog.get_logger())
        running = asyncio.create_task(registrar.run())
        await eventually(lambda: len(registry.leases) == 2)
        for _ in range(10):
            await asyncio.sleep(0)
        assert registry.revision == 3
        registrar.set([B, C])
        await becomes(registry, B, C)
        running.cancel()
        await asyncio.wait({running})
        assert registry.records == {}
        # Nor when it is stopped before there was one.
        await leave(registry, A)
        running = asyncio.create_task(Registrar(registry, "me", 60, structlog.get_logger()).run())
        await eventually(lambda: len(registry.leases) == 4)
        running.cancel()
        await asyncio.wait({running})
        assert standing(registry) == keys(A)

    asyncio.run(scenario())


def test_a_restart_writes_each_record_once_and_removes_what_is_left_without_a_gap() -> None:
    async def scenario() -> None:
        registry = MemoryRegistry()
        registry.put_raw("web/other", OTHERS)
        earlier = await leave(registry, A, B, C)
        before, deltas = registry.revision, []

        async def follow() -> None:
            async for event in registry.watch():
                deltas.extend([event] if isinstance(event, Delta) else [])

        following = asyncio.create_task(follow())
        await asyncio.sleep(0)
        async with registering(registry, A, B):
            await becomes(registry, A, B)
            assert registry.revision == before + 3
            assert [(set(delta.puts), delta.deletes) for delta in deltas] == [
                ({"web/a"}, frozenset()),
                ({"web/b"}, frozenset()),
                (set(), frozenset({"web/c"})),
            ]
            await earlier.close()
            assert registry.revision == before + 3
            # It sweeps once: what comes later is another's affair.
            await leave(registry, C)
            registry.delete_raw("web/a")
            await eventually(lambda: registry.holder("web/a"))
            await becomes(registry, A, B, C)
            assert registry.records["web/other"] == OTHERS
        following.cancel()

    asyncio.run(scenario())


def test_an_owner_of_one_key_does_not_search_for_others() -> None:
    async def scenario() -> None:
        registry = _RecordingRegistry()
        await leave(registry, B)
        async with registering(registry, A, sweep=False):
            await becomes(registry, A, B)
            assert registry.leases[-1].sweeps == 0
        assert standing(registry) == keys(B)

    asyncio.run(scenario())


@pytest.mark.parametrize("error", [RegistryUnavailableError("no answer"), AccessDeniedError("not listed for you")])
def test_a_sweep_that_fails_is_tried_again_and_hinders_nothing(error: RegistryError) -> None:
    async def scenario() -> None:
        registry = _RecordingRegistry()
        await leave(registry, C)
        registry.sweep_error = error
        with structlog.testing.capture_logs() as logs:
            async with registering(registry, A) as registrar:
                await eventually(lambda: registry.leases[-1].sweeps > 3)
                assert registrar.status == Status(frozenset({"web/a"}))
                registrar.set([B])
                await becomes(registry, B, C)
                registry.sweep_error = None
                await becomes(registry, B)
        told = [log for log in logs if "earlier run left" in log["event"]]
        assert len(told) == isinstance(error, AccessDeniedError)

    asyncio.run(scenario())


def test_a_key_that_may_not_be_written_or_removed_fails_alone() -> None:
    async def scenario() -> None:
        registry = _RecordingRegistry()
        registry.forbidden = {"web/a"}
        with structlog.testing.capture_logs() as logs:
            async with registering(registry, A, B) as registrar:
                await becomes(registry, B)
                await eventually(lambda: isinstance(registrar.status.failing.get("web/a"), AccessDeniedError))
                assert registrar.status.registered == {"web/b"}
                registry.forbidden = set()
                await becomes(registry, A, B)
                registry.forbidden = {"web/a"}
                registrar.set([C])
                await becomes(registry, A, C)
                await eventually(lambda: isinstance(registrar.status.failing.get("web/a"), AccessDeniedError))
                registry.forbidden = set()
                await becomes(registry, C)
                await eventually(lambda: registrar.status == Status(frozenset({"web/c"})))
        told = [(log["event"], log["key"]) for log in logs if log["log_level"] == "warning"]
        assert told == [("not registered, trying again", "web/a"), ("not withdrawn, trying again", "web/a")]

    asyncio.run(scenario())


def test_an_outage_is_told_once_however_many_records_wait() -> None:
    async def scenario() -> None:
        registry = MemoryRegistry()
        registry.set_stale("gone")
        with structlog.testing.capture_logs() as logs:
            async with registering(registry, A, B, C) as registrar:
                await eventually(lambda: len(registrar.status.failing) == 3)
                registry.set_stale("gone, in other words")
                await eventually(lambda: "other words" in str(registrar.status.failing["web/a"]))
                registry.set_fresh()
                await becomes(registry, A, B, C)
        [told] = [log for log in logs if log["log_level"] == "warning"]
        assert (told["event"], told["keys"]) == ("cannot register now, trying again", 3)

    asyncio.run(scenario())


def test_a_set_that_is_replaced_while_it_is_written_is_not_written_to_the_end() -> None:
    async def scenario() -> None:
        registry = _RecordingRegistry()
        async with registering(registry, A, B) as registrar:
            registry.on_put = lambda: registrar.set([C])
            await becomes(registry, C)
        written = [backend.id for lease in registry.leases for backend in lease.written]
        assert written == ["a", "c"]

    asyncio.run(scenario())


_BACKENDS = st.sets(st.sampled_from(["a", "b", "c"])).map(lambda ids: [backend(id=id_, port=ord(id_)) for id_ in ids])
_HAPPENINGS = st.one_of(
    st.tuples(st.just("set"), _BACKENDS),
    st.tuples(st.sampled_from(["delete", "steal", "expire"]), st.sampled_from(["web/a", "web/b", "web/c"])),
    st.tuples(st.sampled_from(["stale", "fresh", "wait"]), st.none()),
)


@settings(max_examples=60, deadline=None)
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
            await eventually(lambda: registrar.status == Status(frozenset(keys(*final))))
        assert registry.records == {}

    asyncio.run(scenario())


def test_the_machine_id_is_stable_and_not_the_secret_one() -> None:
    assert machine_id() == machine_id()
    with suppress(FileNotFoundError):
        assert Path("/etc/machine-id").read_text().strip() not in machine_id()


class _RecordingRegistry(MemoryRegistry):
    """Notes what is done to it, and refuses what it is told to refuse."""

    def __init__(self) -> None:
        super().__init__()
        self.leases: list[_RecordingLease] = []
        self.forbidden: set[str] = set()
        self.sweep_error: RegistryError | None = None
        self.on_put: Callable[[], None] = lambda: None

    async def open_lease(self, owner: str, ttl: float) -> MemoryLease:
        self.leases.append(_RecordingLease(self, owner, ttl))
        return self.leases[-1]


class _RecordingLease(MemoryLease):
    def __init__(self, registry: _RecordingRegistry, owner: str, ttl: float) -> None:
        super().__init__(registry, owner, ttl)
        self.registry = registry
        self.written: list[Backend] = []
        self.sweeps = 0

    async def put(self, backend: Backend, *, force: bool = False) -> None:
        self._allow(backend)
        await super().put(backend, force=force)
        self.written.append(backend)
        self.registry.on_put()

    async def delete(self, backend: Backend) -> None:
        self._allow(backend)
        await super().delete(backend)

    async def sweep(self, keep: Collection[str]) -> frozenset[str]:
        self.sweeps += 1
        if self.registry.sweep_error is not None:
            raise self.registry.sweep_error
        return await super().sweep(keep)

    def _allow(self, backend: Backend) -> None:
        if key_of(backend) in self.registry.forbidden:
            raise AccessDeniedError("permission denied")


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


def test_a_write_whose_answer_was_lost_is_taken_back_when_it_is_no_longer_wanted() -> None:
    async def scenario() -> None:
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
            await eventually(lambda: registrar.status == Status(frozenset({"web/a"})))

    asyncio.run(scenario())
