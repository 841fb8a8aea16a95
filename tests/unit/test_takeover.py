"""A key moves from a living registrar to another that asks for it: without a gap, and nobody fights back."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import suppress
from typing import Any

import pytest
import structlog

from discovery.errors import AccessDeniedError, CannotBeAskedError, HandedOverError, OwnedByAnotherError
from discovery.hosting.registries import isolated
from discovery.model import Backend
from discovery.registry import Delta, RegistryURL
from discovery.registry.memory import MemoryLease, MemoryRegistry
from discovery.testing import backend, eventually

from .registrars import (
    OTHERS,
    A,
    B,
    becomes,
    registering,
)
from .test_registrar import _PlainRegistry


@pytest.fixture
def logs() -> Iterator[list[MutableMapping[str, Any]]]:
    with structlog.testing.capture_logs() as logs:
        yield logs


async def test_the_owner_hands_the_key_over_names_the_new_owner_and_keeps_its_other_keys(
    logs: list[MutableMapping[str, Any]],
) -> None:
    """Issue 12, C.1."""
    registry = MemoryRegistry()
    removed: list[frozenset[str]] = []

    async def follow() -> None:
        async for event in registry.watch():
            removed.extend([event.deletes] if isinstance(event, Delta) and event.deletes else [])

    following = asyncio.create_task(follow())
    async with registering(registry, A, B, owner="old") as old:
        await eventually(lambda: len(old.status.registered) == 2)
        before = registry.holder("web/b")
        async with registering(registry, A, takeover=True) as new:
            await becomes(registry, A)
            await eventually(lambda: new.status.registered == {"web/a"})
            await eventually(lambda: isinstance(old.status.failing.get("web/a"), HandedOverError))
            assert str(old.status.failing["web/a"]) == "the record 'web/a' was handed over to 'me', who asked for it"
            assert old.status.registered == {"web/b"}
            assert registry.holder("web/b") is before
            await asyncio.sleep(0.2)  # several TTLs, in which a loser would fight back
            assert removed == []
            await becomes(registry, A)
        # The new owner has ended in order: the key is free, and its backend is still wanted here.
        await eventually(lambda: old.status.registered == {"web/a", "web/b"})
        assert not old.status.failing
    following.cancel()
    assert {"event": "handed over", "key": "web/a", "to": "me", "log_level": "info"} in logs
    assert [log for log in logs if log["log_level"] == "warning"] == [
        {
            "event": "not registered, trying again",
            "key": "web/a",
            "reason": (
                "the record 'web/a' belongs to 'old', who is asked for it and has not answered yet: force it to take"
                " it without an answer"
            ),
            "log_level": "warning",
        }
    ]


async def test_of_two_that_ask_each_gets_the_key_once() -> None:
    """A key that is handed over is not asked for again: two owners would take it in turns forever."""
    registry = MemoryRegistry()
    async with registering(registry, A, owner="first", takeover=True) as first:
        await eventually(lambda: first.status.registered == {"web/a"})
        async with registering(registry, A, owner="second", takeover=True) as second:
            await eventually(lambda: second.status.registered == {"web/a"})
            revision = registry.revision
            await asyncio.sleep(0.2)  # several TTLs, in which the first owner would ask again
            assert registry.revision == revision
            assert isinstance(first.status.failing["web/a"], HandedOverError)


class _WrappedRegistry(MemoryRegistry):
    """A registry whose leases run `around` in place of `put` and `delete` alone."""

    def __init__(self, around: Callable[[str, Backend], Awaitable[None]]) -> None:
        super().__init__()
        self.around = around

    async def open_lease(self, owner: str, ttl: float) -> MemoryLease:
        around = self.around

        class Wrapped(MemoryLease):
            async def put(self, backend: Backend, *, force: bool = False) -> None:
                await around(f"{owner} puts", backend)
                await super().put(backend, force=force)

            async def delete(self, backend: Backend) -> None:
                await super().delete(backend)
                await around(f"{owner} has deleted", backend)

        return Wrapped(self, owner, ttl)


async def test_a_backend_that_is_no_longer_wanted_is_not_got_by_an_earlier_request() -> None:
    """The owner may agree while the new owner withdraws the backend: nobody would remove the record."""

    async def agree(what: str, backend: Backend) -> None:
        if what == "me has deleted":
            with suppress(TimeoutError):
                await asyncio.wait_for(silent.handed_over(), 0.2)

    registry = _WrappedRegistry(agree)
    silent = MemoryLease(registry, "other", 60)
    await silent.put(A)
    async with registering(registry, A, takeover=True) as registrar:
        await eventually(lambda: "is asked for it" in str(registrar.status.failing.get("web/a")))
        registrar.set([B])
        await becomes(registry, B)
        assert registry.holder("web/a") is silent


class _BriefRegistry(MemoryRegistry):
    """The next owner of a key has come and gone before the one that hands the key over looks at it again."""

    def __init__(self) -> None:
        super().__init__()
        self.requests: asyncio.Queue[str] = asyncio.Queue()

    async def hand_over(self, lease: MemoryLease) -> tuple[str, str]:
        key = await self.requests.get()
        del self._holders[key]  # as `MemoryRegistry.hand_over`
        self.delete_raw(key)
        return key, "other"


async def test_a_key_that_comes_back_at_once_is_told_to_be_registered_again(
    logs: list[MutableMapping[str, Any]],
) -> None:
    registry = _BriefRegistry()
    async with registering(registry, A) as registrar:
        await eventually(lambda: registrar.status.registered == {"web/a"})
        registry.requests.put_nowait("web/a")
        await eventually(lambda: len(logs) == 3)
        await becomes(registry, A)
    assert [log["event"] for log in logs][:3] == ["registered", "handed over", "registered"]


@pytest.mark.parametrize("option", ["force", "takeover"])
async def test_a_key_that_is_handed_over_before_all_keys_are_written_is_not_taken_back(option: str) -> None:
    """Nobody has reported yet that the key stood."""
    may_go_on = asyncio.Event()

    async def wait(what: str, each: Backend) -> None:
        if (what, each.id) == ("first puts", "b"):
            await may_go_on.wait()

    registry = _WrappedRegistry(wait)
    async with registering(registry, A, B, owner="first", **{option: True}) as first:  # type: ignore[arg-type]
        await eventually(lambda: "web/a" in registry.records)
        async with registering(registry, A, takeover=True) as new:
            await eventually(lambda: new.status.registered == {"web/a"})
            may_go_on.set()
            await eventually(lambda: first.status.registered == {"web/b"})
            await asyncio.sleep(0.2)  # several TTLs, in which the first owner would fight back
            assert new.status.registered == {"web/a"}
            assert isinstance(first.status.failing["web/a"], HandedOverError)


async def test_owners_that_do_not_answer_do_not_keep_other_owners_from_being_asked() -> None:
    registry = MemoryRegistry()
    silent = [backend(id=f"{number:02}") for number in range(20)]
    for each in silent:
        registry.put_raw(each.key, OTHERS)
    async with registering(registry, A, owner="old") as old:
        await eventually(lambda: old.status.registered == {"web/a"})
        async with registering(registry, *silent, A, takeover=True, turn_seconds=0.05) as new:
            await eventually(lambda: new.status.registered == {"web/a"})


async def test_a_record_without_an_owner_cannot_be_asked_for() -> None:
    registry = MemoryRegistry()
    registry.put_raw("web/a", b"10.0.0.1:80")
    async with registering(registry, A, B, takeover=True) as registrar:
        await becomes(registry, B)
        await eventually(lambda: isinstance(registrar.status.failing.get("web/a"), CannotBeAskedError))
        assert registry.records["web/a"] == b"10.0.0.1:80"


async def test_an_owner_that_does_not_answer_keeps_its_key() -> None:
    """Programs of other versions, and other programs, do not answer."""
    registry = MemoryRegistry()
    registry.put_raw("web/a", OTHERS)
    async with registering(registry, A, takeover=True) as registrar:
        await eventually(lambda: isinstance(registrar.status.failing.get("web/a"), OwnedByAnotherError))
        assert "is asked for it and has not answered yet" in str(registrar.status.failing["web/a"])
        assert registry.records["web/a"] == OTHERS
        registry.delete_raw("web/a")
        await becomes(registry, A)


async def test_where_a_registry_cannot_ask_that_is_said() -> None:
    registry = _PlainRegistry()
    registry.put_raw("web/a", OTHERS)
    async with registering(registry, A, takeover=True) as registrar:
        await eventually(lambda: isinstance(registrar.status.failing.get("web/a"), CannotBeAskedError))
        assert "this registry cannot ask an owner to hand a key over" in str(registrar.status.failing["web/a"])
        assert registry.records["web/a"] == OTHERS


async def test_a_registry_of_a_plugin_hands_over_as_well() -> None:
    memory = MemoryRegistry()
    registry = isolated(lambda url: memory)(RegistryURL("memory"))
    async with registering(registry, A, owner="old") as old:
        await eventually(lambda: old.status.registered == {"web/a"})
        async with registering(registry, A, takeover=True) as new:
            await eventually(lambda: new.status.registered == {"web/a"})
            await eventually(lambda: isinstance(old.status.failing.get("web/a"), HandedOverError))
    await registry.close()


async def test_a_registry_that_refuses_requests_is_named_with_its_reason() -> None:
    """A user of etcd may have the permission to write the records of one service alone."""

    class Refusing(MemoryRegistry):
        async def open_lease(self, owner: str, ttl: float) -> MemoryLease:
            return RefusingLease(self, owner, ttl)

    class RefusingLease(MemoryLease):
        async def take_over(self, backend: Backend) -> None:
            raise AccessDeniedError("permission denied")

    registry = Refusing()
    registry.put_raw("web/a", OTHERS)
    async with registering(registry, A, takeover=True, ttl=3600) as registrar:
        told = "the record 'web/a' belongs to 'other', who cannot be asked for it now: permission denied"
        await eventually(lambda: str(registrar.status.failing.get("web/a")) == told)
        registrar.set([A, B])
        await becomes(registry, B)
        assert str(registrar.status.failing["web/a"]) == told


async def test_an_owner_by_force_answers_a_request_that_was_there_before() -> None:
    registry = MemoryRegistry()
    silent, asker = MemoryLease(registry, "silent", 60), MemoryLease(registry, "asker", 60)
    await silent.put(A)
    asking = asyncio.create_task(asker.take_over(A))
    async with registering(registry, B, owner="new") as new:
        await eventually(lambda: new.status.registered == {"web/b"})
        await asyncio.sleep(0)  # it waits for requests
        lease = registry.holder("web/b")
        assert lease is not None
        await lease.put(A, force=True)
        await eventually(asking.done)
        assert registry.holder("web/a") is asker
