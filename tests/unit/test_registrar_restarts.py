"""The registrar and what an earlier run of its owner left, what it is refused, and what it tells."""

import asyncio
from collections.abc import Callable, Collection

import pytest
import structlog

from discovery.errors import AccessDeniedError, RegistryUnavailableError
from discovery.model import Backend
from discovery.providing.registrar import Registrar, RegistrarStatus
from discovery.registry import Delta
from discovery.registry.memory import MemoryLease, MemoryRegistry
from discovery.testing import eventually

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
    standing,
)


class _RecordingRegistry(MemoryRegistry):
    """Notes what is done to it, and refuses what it is told to refuse."""

    def __init__(self) -> None:
        super().__init__()
        self.leases: list[_RecordingLease] = []
        self.forbidden: set[str] = set()
        self.sweep_error: Exception | None = None
        self.sweeping = asyncio.Event()
        self.sweeping.set()
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

    async def sweep(self, keep: Collection[str], among: Collection[str] | None = None) -> frozenset[str]:
        self.sweeps += 1
        await self.registry.sweeping.wait()
        if self.registry.sweep_error is not None:
            raise self.registry.sweep_error
        return await super().sweep(keep, among)

    def _allow(self, backend: Backend) -> None:
        if backend.key in self.registry.forbidden:
            raise AccessDeniedError("permission denied")


async def test_nothing_happens_to_what_an_earlier_run_left_before_the_first_set() -> None:
    registry = _RecordingRegistry()
    await leave(registry, A, B)
    registrar = Registrar(registry, "me", 60, structlog.get_logger(), retries=SOON)
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
    running = asyncio.create_task(Registrar(registry, "me", 60, structlog.get_logger(), retries=SOON).run())
    await eventually(lambda: len(registry.leases) == 4)
    running.cancel()
    await asyncio.wait({running})
    assert standing(registry) == keys(A)


async def test_a_restart_writes_each_record_once_and_removes_what_is_left_without_a_gap() -> None:
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


async def test_an_owner_of_one_key_does_not_search_for_others() -> None:
    registry = _RecordingRegistry()
    await leave(registry, A, B)
    async with registering(registry, A, among={"web/a"}):
        await becomes(registry, A, B)
        await eventually(lambda: registry.leases[-1].sweeps == 1)
    assert standing(registry) == keys(B)
    await leave(registry, A, B)
    async with registering(registry, among={"web/a"}):
        await becomes(registry, B)


@pytest.mark.parametrize(
    "error", [RegistryUnavailableError("no answer"), AccessDeniedError("not listed for you"), ZeroDivisionError()]
)
async def test_a_sweep_that_fails_is_tried_again_and_hinders_nothing(error: Exception) -> None:
    registry = _RecordingRegistry()
    await leave(registry, C)
    registry.sweep_error = error
    with structlog.testing.capture_logs() as logs:
        async with registering(registry, A) as registrar:
            await eventually(lambda: registry.leases[-1].sweeps > 3)
            assert registrar.status == RegistrarStatus(frozenset({"web/a"}))
            registrar.set([B])
            await becomes(registry, B, C)
            registry.sweep_error = None
            await becomes(registry, B)
    told = [log for log in logs if "earlier run left" in log["event"]]
    assert len(told) == (not isinstance(error, RegistryUnavailableError))


async def test_a_sweep_that_takes_long_delays_nothing_and_is_not_begun_again() -> None:
    registry = _RecordingRegistry()
    await leave(registry, C)
    registry.sweeping.clear()
    async with registering(registry, A, B) as registrar:
        await eventually(lambda: registry.leases[-1].sweeps == 1)
        registrar.set([B])
        await becomes(registry, B, C)
        registrar.set([A, B])
        await becomes(registry, A, B, C)
        await eventually(lambda: registrar.status == RegistrarStatus(frozenset({"web/a", "web/b"})))
        registry.sweeping.set()
        await becomes(registry, A, B)
        assert registry.leases[-1].sweeps == 1
        registry.sweeping.clear()
    # Nor does it outlive a run that is stopped.
    await leave(registry, C)
    async with registering(registry, A):
        await eventually(lambda: registry.leases[-1].sweeps == 1)
    assert standing(registry) == keys(C)
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_key_that_may_not_be_written_or_removed_fails_alone() -> None:
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
            await eventually(lambda: registrar.status == RegistrarStatus(frozenset({"web/c"})))
    told = [(log["event"], log["key"]) for log in logs if log["log_level"] == "warning"]
    assert told == [("not registered, trying again", "web/a"), ("not withdrawn, trying again", "web/a")]


async def test_an_outage_is_told_once_however_many_records_wait() -> None:
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


async def test_a_set_that_is_replaced_while_it_is_written_is_not_written_to_the_end() -> None:
    registry = _RecordingRegistry()
    async with registering(registry, A, B) as registrar:
        registry.on_put = lambda: registrar.set([C])
        await becomes(registry, C)
    written = [backend.id for lease in registry.leases for backend in lease.written]
    assert written == ["a", "c"]
