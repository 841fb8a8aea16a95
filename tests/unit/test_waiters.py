"""Those who wait: woken by any thread, in bounded number, and what they wait for."""

import asyncio
from threading import Thread
from typing import cast

import pytest

from discovery.admin.awaited import Accepting, Awaited, Awaiting
from discovery.admin.waiters import TooManyWaitersError, Waiters
from discovery.model import Backend, Service, Snapshot, State
from discovery.testing import backend, eventually, within


def never() -> bool:
    return False


def snapshot(revision: int, *backends: Backend) -> Snapshot:
    return Snapshot.of(revision, backends)


async def test_a_thread_that_tells_ends_the_wait() -> None:
    waiters, there = Waiters(), []
    waiting = asyncio.create_task(waiters.wait(lambda: bool(there), within(60), never))
    await asyncio.sleep(0)

    def arrive() -> None:
        there.append(1)
        waiters.tell()

    thread = Thread(target=arrive)
    thread.start()
    assert await waiting
    thread.join()


async def test_what_is_told_while_the_condition_is_looked_at_is_not_lost() -> None:
    """The condition becomes true after it was looked at, and before anybody waits."""
    waiters, looks = Waiters(), 0

    def is_met() -> bool:
        nonlocal looks
        looks += 1
        waiters.tell()
        return looks > 4

    assert await waiters.wait(is_met, within(60), never)


async def test_a_wait_ends_with_its_time_and_with_its_client() -> None:
    waiters = Waiters()
    assert not await waiters.wait(never, 0.0, never)
    assert not await waiters.wait(never, within(60), lambda: True)
    assert await waiters.wait(lambda: True, 0.0, never)


async def test_the_number_of_waiters_is_bounded_and_places_are_free_again() -> None:
    waiters, ended = Waiters(most=2), []
    waiting = [asyncio.create_task(waiters.wait(lambda: bool(ended), within(60), never)) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(TooManyWaitersError):
        await waiters.wait(never, 1.0, never)
    with pytest.raises(TooManyWaitersError):
        await Waiters().wait(never, 1.0, never, most=0)
    assert await waiters.wait(lambda: True, 1.0, never), "who need not wait takes no place"
    ended.append(1)
    waiters.tell()
    assert await asyncio.gather(*waiting) == [True, True]
    assert not await waiters.wait(never, 0.0, never)


async def test_nobody_is_woken_while_nobody_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """An apply costs no wake-up of the core."""
    waiters, woken = Waiters(), []
    monkeypatch.setattr(asyncio.get_running_loop(), "call_soon_threadsafe", woken.append)
    waiters.tell()
    assert woken == []


async def test_many_changes_wake_once() -> None:
    waiters, looks = Waiters(look_seconds=within(60)), 0

    def is_met() -> bool:
        nonlocal looks
        looks += 1
        return looks > 3

    waiting = asyncio.create_task(waiters.wait(is_met, within(60), never))
    await eventually(lambda: looks == 2)
    for _ in range(1000):
        waiters.tell()
    await eventually(lambda: looks == 3)
    await asyncio.sleep(0)
    assert looks == 3
    waiters.tell()
    assert await waiting


DRAINING = Backend("web", "d", "10.0.0.1", 80, state=State.DRAINING)
RESTING = Backend("web", "z", "10.0.0.1", 80, weight=0)


@pytest.mark.parametrize(
    ("awaited", "there", "missing"),
    [
        (Awaited("web"), None, "the daemon has no snapshot yet"),
        (Awaited("web"), snapshot(3), "the daemon has 0 of 1 backends"),
        (Awaited("web"), snapshot(3, backend("web", "a")), None),
        (Awaited("web"), snapshot(3, DRAINING, RESTING), "the daemon has 0 of 1 backends"),
        (Awaited("web"), snapshot(3, backend("db", "a")), "the daemon has 0 of 1 backends"),
        (Awaited("web", 2), snapshot(3, backend("web", "a"), DRAINING), "the daemon has 1 of 2 backends"),
        (Awaited("web", 0, 0), snapshot(3, DRAINING), None),
        (Awaited("web", 0, 0), snapshot(3, backend("web", "a")), "the daemon has 1 backends, and not 0"),
        (Awaited("web", 0, 0), None, "the daemon has no snapshot yet"),
        (Awaited("web", revision=4), snapshot(3, backend("web", "a")), "the daemon has revision 3, and not 4"),
        (Awaited("web", revision=3), snapshot(3, backend("web", "a")), None),
    ],
)
def test_what_is_missing(awaited: Awaited, there: Snapshot | None, missing: str | None) -> None:
    assert Awaiting(awaited).look({"": there}).missing == missing


def test_every_consumer_has_to_have_applied_it() -> None:
    awaiting = Awaiting(Awaited("web", applied_by=("one", "two")))
    full, empty = snapshot(2, backend("web", "a")), snapshot(1)
    assert awaiting.look({"": full, "one": full, "two": empty}).missing == "two has applied 0 of 1 backends"
    assert awaiting.look({"one": full}).missing == "two has applied no snapshot yet"
    assert awaiting.look({"one": full, "two": full}).missing is None


def test_of_a_new_version_only_the_runs_that_changed_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    service = Service.of("web", [backend("web", str(number)) for number in range(3000)])
    accepting = Accepting()
    assert accepting.count(service) == 3000
    counted = 0
    usual = Backend.accepts_work.fget

    def count(self: Backend) -> bool:
        nonlocal counted
        counted += 1
        return bool(usual(self))

    monkeypatch.setattr(Backend, "accepts_work", property(count))
    changed = service.with_changes({"7": Backend("web", "7", "10.0.0.1", 80, weight=0)})
    assert accepting.count(changed) == 2999
    assert 0 < counted < 1000
    assert accepting.count(None) == 0


def test_a_version_that_was_counted_is_not_looked_at_again() -> None:
    class Looked:
        looks = 0
        service = Service.of("web", [backend("web", str(number)) for number in range(300)])

        @property
        def runs(self) -> tuple[tuple[Backend, ...], ...]:
            self.looks += 1
            return self.service.runs

    accepting, looked = Accepting(), Looked()
    version = cast("Service", looked)
    assert [accepting.count(version) for _ in range(3)] == [300, 300, 300]
    assert looked.looks == 1
    assert accepting.count(None) == 0
    assert accepting.count(version) == 300
