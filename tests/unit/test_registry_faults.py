"""A faulty registry is reported as one that cannot be followed, and tried again; nothing ends and nothing freezes."""

import asyncio
import math
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import aclosing
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import structlog

from discovery.consuming.events import contained_events
from discovery.consuming.following import RegistryFeed, Timing
from discovery.consuming.watcher import Observation
from discovery.errors import ConfigError, OwnedByAnotherError, RegistryError, RegistryUnavailableError
from discovery.hosting.registries import PATIENCE, IsolatedRegistry, Patience
from discovery.model import Backend, Snapshot
from discovery.registry import Delta, History, Registry, RegistryURL, Reset, Stale
from discovery.registry.memory import MemoryLease, MemoryRegistry
from discovery.testing import RegistryContract, backend, eventually

URL = RegistryURL.parse("faulty://")
A = {"web/a": b"10.0.0.1:80"}
B = {"web/b": b"10.0.0.2:80"}


class Scripted(MemoryRegistry):
    """Each watch follows the next script: it yields events, calls functions, and raises exceptions."""

    def __init__(self, *scripts: tuple[Any, ...]) -> None:
        super().__init__()
        self.scripts = list(scripts)
        self.open = 0

    async def watch(self) -> AsyncGenerator[Any, None]:
        self.open += 1
        is_last = len(self.scripts) == 1
        try:
            for step in self.scripts[0] if is_last else self.scripts.pop(0):
                if isinstance(step, BaseException):
                    raise step
                if callable(step):
                    step()
                else:
                    yield step
            if is_last:
                await asyncio.Event().wait()
        finally:
            self.open -= 1


WORKS = (Reset(9, B),)
FAULTS: Mapping[str, tuple[tuple[Any, ...], str]] = {
    "raises": ((RuntimeError("boom"),), "RuntimeError: boom"),
    "raises after a listing": ((Reset(7, A), RuntimeError("boom")), "RuntimeError: boom"),
    "raises what ends a process": ((SystemExit(3),), "SystemExit: 3"),
    "raises the cancellation of another": ((asyncio.CancelledError(),), "CancelledError"),
    "ends": ((Reset(7, A),), "it has ended by itself"),
    "ends at once": ((), "it has ended by itself"),
    "goes back": ((Reset(7, A), Delta(6, B)), "revision 6 comes after 7"),
    "changes before it lists": ((Delta(6, B),), "a change at revision 6 comes before the first listing"),
    "yields rubbish": (("rubbish",), "it yields 'rubbish', which is no event"),
    "yields none": ((None,), "it yields None, which is no event"),
    "yields text as a value": ((Reset(7, {"web/a": "x"}),), "the value of the record 'web/a' is 'x', and not bytes"),  # type: ignore[dict-item]
    "yields no mapping": ((Reset(7, ["web/a"]),), "records are ['web/a'], which is no mapping"),  # type: ignore[arg-type]
    "yields a key that is none": ((Reset(7, {5: b""}),), "5 is the key of a record"),  # type: ignore[dict-item]
    "yields text as a revision": ((Reset("7", A),), "a revision is '7'"),  # type: ignore[arg-type]
    "deletes a text": ((Reset(7, A), Delta(8, {}, "web/a")), "deletes are 'web/a', which is no frozenset"),  # type: ignore[arg-type]
    "leases are no mapping": ((Reset(7, A, leases=5),), "leases are 5, which is no mapping"),  # type: ignore[arg-type]
    "a lease is no number": ((Reset(7, A, leases={"web/a": "x"}),), "the lease of 'web/a' is 'x'"),  # type: ignore[dict-item]
    "a lease is no number of JSON": (
        (Reset(7, A, leases={"web/a": Fraction(3)}),),
        "the lease of 'web/a' is Fraction(3, ",
    ),  # type: ignore[dict-item]
    "a lease is not finite": ((Reset(7, A, leases={"web/a": math.nan}),), "the lease of 'web/a' is nan"),
    "a history is none": ((Reset(7, A, history="x"),), "the history of a Reset is 'x'"),  # type: ignore[arg-type]
    "a store is no text": (
        (Reset(7, A, history=History(b"x")),),
        "the history of a Reset is History(store=b'x', term=",
    ),  # type: ignore[arg-type]
    "a reason is no text": ((Stale(None),), "the reason of a Stale is None"),  # type: ignore[arg-type]
}


def quick() -> Iterator[float]:
    return iter([0.01] * 100)


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_watch_that_fails_is_stale_with_its_reason_and_begun_again(fault: str, tmp_path: Path) -> None:
    script, reason = FAULTS[fault]
    registry = Scripted(script, WORKS)
    snapshots: list[Snapshot] = []
    stales: list[str | None] = []
    feed = RegistryFeed(structlog.get_logger(), snapshots.append, lambda: None, Timing(retries=quick))
    observe = feed._observe

    def observed(observation: Observation) -> None:
        stales.append(observation.stale)
        observe(observation)

    feed._observe = observed  # type: ignore[method-assign]
    await feed.follow(registry, URL, tmp_path)
    try:
        await eventually(lambda: feed.snapshot is not None and feed.snapshot.revision == 9)
        assert feed.stale is None
        feed.raise_if_failed()
    finally:
        await feed.stop()
    told = [each for each in stales if each is not None]
    assert [each.partition("the watch of the registry failed: ")[2][: len(reason)] for each in told] == [reason]
    assert registry.open == 0


async def test_a_watch_that_goes_on_failing_is_tried_again_ever_more_slowly() -> None:
    waited: list[float] = []

    def delays() -> Any:
        for number in range(1, 100):
            waited.append(number)
            yield 0.001

    seen = []
    script = Scripted((Reset(1, A), RuntimeError("boom")))
    async with aclosing(contained_events(script, retries=delays)) as events:
        async for event in events:
            seen.append(event)
            if len(seen) == 8:
                break
    assert [type(each) for each in seen] == [Reset, Stale] * 4
    assert waited == [1, 2, 3]


async def test_a_registry_that_tells_nothing_is_a_fault(tmp_path: Path) -> None:
    timing = Timing(remember_after=0.01, silent_after=0.02)
    feed = RegistryFeed(structlog.get_logger(), lambda snapshot: None, lambda: None, timing)
    await feed.follow(Scripted(()), URL, tmp_path)
    try:
        await eventually(lambda: feed.stale == "the registry has told nothing for 0.02 s")
    finally:
        await feed.stop()


async def stale_of(registry: Registry) -> str:
    """The reason of the first Stale that is told."""
    async with aclosing(contained_events(registry, retries=quick)) as events:
        async for event in events:
            if isinstance(event, Stale):
                return event.reason
    raise AssertionError("it has ended")


def opened(factory: Callable[[RegistryURL], Any], patience: Patience = PATIENCE) -> Registry:
    return IsolatedRegistry.open(factory, URL, patience)


async def test_a_registry_of_a_plugin_has_a_thread_of_its_own() -> None:
    threads: set[str] = set()

    def note() -> None:
        threads.add(threading.current_thread().name)

    def make(url: RegistryURL) -> Registry:
        note()
        return Scripted((note, Reset(1, A)))

    registry = opened(make)
    async with aclosing(registry.watch()) as events:
        assert await anext(events) == Reset(1, A)
    await registry.close()
    await registry.close()
    assert threads == {"registry-faulty"}
    await eventually(lambda: "registry-faulty" not in [each.name for each in threading.enumerate()])


async def test_a_registry_that_blocks_delays_nobody_and_is_reported() -> None:
    free = threading.Event()
    script = Scripted((Reset(1, A), free.wait), WORKS)
    registry = opened(lambda url: script, Patience(look=0.05, blocked=0.2))
    lease = await registry.open_lease("me", 10)
    begun = time.monotonic()
    assert "blocks: its event loop has run nothing" in await stale_of(registry)
    with pytest.raises(RegistryUnavailableError, match="blocks"):
        await lease.put(backend())
    assert time.monotonic() - begun < 60
    free.set()
    async with aclosing(contained_events(registry, retries=quick)) as events:
        async for event in events:
            if event == WORKS[0]:
                break
    await lease.put(backend())
    await registry.close()


async def test_a_factory_that_fails_is_tried_again() -> None:
    faults = [ValueError("not yet"), OSError("still not"), SystemExit(1), None]

    def make(url: RegistryURL) -> Any:
        if (fault := faults.pop(0)) is not None:
            raise fault
        return Scripted(WORKS)

    registry = opened(make)  # the first fault
    reasons = []
    async with aclosing(contained_events(registry, retries=quick)) as events:
        async for event in events:
            if event == WORKS[0]:
                break
            assert isinstance(event, Stale)
            reasons.append(event.reason.partition(": ")[2])
    await registry.close()
    assert reasons == ["OSError: still not", "the plugin of the registry raises SystemExit: 1"]


async def test_a_factory_that_refuses_its_url_is_an_error_of_the_configuration() -> None:
    def make(url: RegistryURL) -> Any:
        raise ConfigError("no such option")

    with pytest.raises(ConfigError, match="no such option"):
        opened(make)


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (None, "the plugin's registry is a NoneType without watch, open_lease, close"),
        (type("Half", (), {"watch": print, "close": print})(), "the plugin's registry is a Half without open_lease"),
    ],
)
async def test_what_is_no_registry_is_reported(made: Any, reason: str) -> None:
    registry = opened(lambda url: made)
    assert reason in await stale_of(registry)
    with pytest.raises(RegistryError, match="without"):
        await registry.open_lease("me", 10)
    await registry.close()


async def test_a_watch_that_is_no_generator_is_reported() -> None:
    class Wrong(MemoryRegistry):
        async def watch(self) -> Any:  # type: ignore[override]
            return Reset(1, A)

    registry = opened(lambda url: Wrong())
    assert "its watch returns a coroutine and no asynchronous generator" in await stale_of(registry)
    await registry.close()


async def test_a_lease_raises_what_the_lease_of_the_plugin_raises() -> None:
    inner = MemoryRegistry()
    registry = opened(lambda url: inner)
    lease = await registry.open_lease("me", 10)
    assert (lease.owner, lease.ttl) == ("me", 10)
    losing = asyncio.ensure_future(lease.lost())
    await lease.put(backend("web", "a"))
    other = await registry.open_lease("other", 10)
    with pytest.raises(OwnedByAnotherError):
        await other.put(backend("web", "a"))
    await lease.delete(backend("web", "a"))
    await other.put(backend("web", "a"))
    assert not losing.done()
    losing.cancel()
    await registry.close()
    with pytest.raises(RegistryError, match="the registry is closed"):
        await registry.open_lease("me", 10)


class FaultyLease(MemoryLease):
    """Raises what no lease may raise, in every method."""

    async def put(self, backend: Backend, *, force: bool = False) -> None:
        raise ValueError("put fails")

    async def delete(self, backend: Backend) -> None:
        raise SystemExit(3)

    async def sweep(self, keep: Any, among: Any = None) -> frozenset[str]:
        raise OSError("sweep fails")

    async def lost(self) -> str:
        raise KeyError("lost fails")


async def test_what_a_lease_raises_is_an_error_of_the_registry() -> None:
    class Faulty(MemoryRegistry):
        async def open_lease(self, owner: str, ttl: float) -> MemoryLease:
            return FaultyLease(self, owner, ttl)

    registry = opened(lambda url: Faulty())
    lease = await registry.open_lease("me", 10)
    with pytest.raises(RegistryError, match="the plugin of the registry raises ValueError: put fails"):
        await lease.put(backend())
    with pytest.raises(RegistryError, match="the plugin of the registry raises SystemExit: 3"):
        await lease.delete(backend())
    with pytest.raises(RegistryError, match="the plugin of the registry raises OSError: sweep fails"):
        await lease.sweep(())
    assert "lost fails" in await lease.lost()
    await registry.close()


async def test_a_call_that_waits_while_the_registry_is_closed_raises_an_error_of_the_registry() -> None:
    class Waits(MemoryRegistry):
        async def alarms(self) -> list[str]:
            asked.set()
            await asyncio.Event().wait()
            return []

    asked = threading.Event()
    registry = opened(lambda url: Waits())
    asking = asyncio.ensure_future(registry.alarms())  # type: ignore[attr-defined]
    await eventually(asked.is_set)
    await registry.close()
    with pytest.raises(RegistryError, match="the registry is closed"):
        await asking


@pytest.mark.parametrize("made", [None, 5])
async def test_what_is_no_lease_is_an_error_of_the_registry(made: Any) -> None:
    class Wrong(MemoryRegistry):
        async def open_lease(self, owner: str, ttl: float) -> Any:
            return made

    registry = opened(lambda url: Wrong())
    with pytest.raises(RegistryError, match=f"the plugin's lease is a {type(made).__name__} without put, delete"):
        await registry.open_lease("me", 10)
    await registry.close()


class LeftOpen(IsolatedRegistry):
    """Stays open for other users of the same thread, until `end`."""

    async def close(self) -> None:
        pass

    async def end(self) -> None:
        await super().close()


class TestContractOfIsolated(RegistryContract):
    """The memory registry on a thread of its own keeps the contract, too."""

    ttl = 0.2

    def setup_method(self) -> None:
        self.inner = MemoryRegistry()
        self.registry = LeftOpen(lambda url: self.inner, URL)

    def teardown_method(self) -> None:
        asyncio.run(self.registry.end())

    def open(self) -> Registry:
        return self.registry

    async def write(self, key: str, value: bytes) -> None:
        await self._there(lambda: self.inner.put_raw(key, value))

    async def remove(self, key: str) -> None:
        await self._there(lambda: self.inner.delete_raw(key))

    async def expire(self, lease: Any) -> None:
        await self._there(lease._lease.freeze)

    async def _there(self, change: Callable[[], object]) -> None:
        async def run(_: Registry) -> None:
            change()

        await self.registry.call(run)
