"""The stream of the live page: what readers get, how often it is painted, and that nothing is done without readers."""

import asyncio
import json
import time
from collections.abc import Iterator
from typing import Any

from discovery.admin.page.facts import Facts
from discovery.admin.page.filters import Conditions, Filters
from discovery.admin.page.matching import Matching, Slices
from discovery.admin.page.pacing import Pace
from discovery.admin.page.painting import Painter
from discovery.admin.page.stream import MOST_DISTINCT, Reader, Stream
from discovery.admin.status import DaemonStatus
from discovery.admin.waiters import Waiters
from discovery.consuming.owners import Owners
from discovery.model import Backend, Snapshot
from discovery.testing import eventually, within

QUICK = Pace(least=0.0, look=60.0, share=1000.0)
"""Paints as soon as it is told, and not unasked."""


class Plain:
    """Renders values as text, and counts."""

    def __init__(self) -> None:
        self.rendered: list[str] = []

    def part(self, name: str, *values: Any) -> str:
        self.rendered.append(name)
        return f"{name} {values!r}"


class World:
    """A daemon's state that a test changes."""

    def __init__(self, pace: Pace = QUICK) -> None:
        self.looks = 0
        self.backends: dict[str, Backend] = {}
        self.revision = 1
        self.waiters = Waiters()
        self.renderer = Plain()
        self.stream = Stream(self.facts, Painter(self.renderer), self.waiters, pace)

    def facts(self) -> Facts:
        self.looks += 1
        return Facts(DaemonStatus("memory://", snapshot=Snapshot.of(self.revision, self.backends.values())))

    def put(self, id_: str, port: int = 80) -> None:
        self.backends[id_] = Backend("web", id_, "10.0.0.1", port)
        self.revision += 1
        self.waiters.tell()


def messages(reader: Reader) -> list[dict[str, Any]]:
    return [json.loads(each.decode().removeprefix("data: ")) for each in reader.take()]


async def news(reader: Reader) -> list[dict[str, Any]]:
    """The next messages, of which there is one at least."""
    found: list[dict[str, Any]] = []

    async def has_come() -> bool:
        assert await reader.wait(within(60))
        found.extend(messages(reader))
        return bool(found)

    await eventually(has_come, timeout=60)
    return found


async def test_nothing_is_looked_at_without_readers() -> None:
    world = World()
    for number in range(100):
        world.put(str(number))
    await asyncio.sleep(0)
    assert (world.looks, world.renderer.rendered) == (0, [])
    with world.stream.reader([Filters()]) as reader:
        await news(reader)
    looks = world.looks
    assert looks > 0
    for number in range(100):
        world.put(str(number), 81)
    for _ in range(10):
        await asyncio.sleep(0)
    assert world.looks == looks
    assert world.stream.readers == 0


async def test_a_reader_gets_everything_and_then_what_has_changed() -> None:
    world = World()
    world.put("a")
    world.put("b")
    with world.stream.reader([Filters()]) as reader:
        (first,) = await news(reader)
        assert first["full"]
        assert first["rows"]["backend-rows"]["order"] == ["backend-web%2Fa", "backend-web%2Fb"]
        world.put("b", 81)
        (second,) = await news(reader)
        assert not second["full"]
        assert list(second["rows"]["backend-rows"]) == ["html"]
        assert list(second["rows"]["backend-rows"]["html"]) == ["backend-web%2Fb"]
        assert "overview-part" not in second["parts"]
        del world.backends["a"]
        world.put("b", 81)
        (third,) = await news(reader)
        assert third["rows"]["backend-rows"] == {"order": ["backend-web%2Fb"]}
        assert "overview-part" in third["parts"]


async def test_what_a_slow_reader_has_missed_comes_once_and_in_its_last_form() -> None:
    world = World()
    world.put("a")
    with world.stream.reader([Filters()]) as slow, world.stream.reader([Filters()]) as quick:
        await news(slow)
        await news(quick)
        for port in (81, 82, 83):
            world.put("a", port)
            (told,) = await news(quick)
            assert f":{port}" in told["rows"]["backend-rows"]["html"]["backend-web%2Fa"]
        (told,) = messages(slow)
        assert ":83" in told["rows"]["backend-rows"]["html"]["backend-web%2Fa"]
        assert messages(slow) == []


async def test_readers_of_one_view_share_the_painting_and_the_bytes() -> None:
    world = World()
    world.put("a")
    with world.stream.reader([Filters()]) as one, world.stream.reader([Filters()]) as other:
        await eventually(lambda: _version(one) and _version(other), timeout=60)
        (first,), (second,) = list(one.take()), list(other.take())
        assert first is second
        world.renderer.rendered.clear()
        world.put("a", 81)
        await one.wait(within(60))
        assert world.renderer.rendered.count("backend") == 1


def _version(reader: Reader) -> int:
    return sum(each.version for each in reader._sent)


async def test_a_reader_of_several_views_gets_a_message_for_each() -> None:
    world = World()
    world.put("a")
    wanted = [Filters(q="a"), Filters(q="nothing")]
    with world.stream.reader(wanted) as reader:
        await eventually(lambda: all(each.version for each in reader._sent), timeout=60)
        assert [each["view"] for each in messages(reader)] == reader.views == ["q=a", "q=nothing"]


async def test_many_changes_are_few_pictures() -> None:
    """Between two pictures there is a pause, in which changes are collected: an hour is as long as the test."""
    world = World(Pace(least=3600.0, look=3600.0))
    with world.stream.reader([Filters()]) as reader:
        await news(reader)
        looks = world.looks
        for number in range(50):
            world.put(str(number))
            await asyncio.sleep(0)
        assert world.looks == looks
        with world.stream.reader([Filters(q="web/1")]) as late:
            (told,) = await news(late)
            assert len(told["rows"]["backend-rows"]["order"]) == 11, "who has nothing yet does not wait"
        assert messages(reader) == []


async def test_a_client_gets_at_most_five_updates_in_a_second() -> None:
    """50 changes a second, at the usual pace: however slow the machine is, nothing comes sooner."""
    world = World(Pace())
    with world.stream.reader([Filters()]) as reader:
        await news(reader)
        begun, updates, changes = time.monotonic(), 0, 0
        while updates < 6:
            world.put(str(changes))
            changes += 1
            await reader.wait(0.02)
            updates += len(messages(reader))
        assert time.monotonic() - begun >= 5 * 0.2 - 0.01, "the first may come at once"
    assert changes > updates


async def test_a_picture_that_costs_much_is_painted_less_often() -> None:
    world = World(Pace(least=0.0, look=0.0, share=1e-9))
    with world.stream.reader([Filters()]) as reader:
        await news(reader)
        looks = world.looks
        world.put("a")
        for _ in range(20):
            await asyncio.sleep(0)
        assert world.looks == looks
    assert world.stream.cost > 0


async def test_a_fault_of_a_picture_does_not_end_the_stream() -> None:
    world = World(Pace(least=0.0, look=0.0, share=1000.0))
    faults = iter([ValueError("a fault of the page")])

    def fail(name: str, *values: Any) -> str:
        for fault in faults:
            raise fault
        return usual(name, *values)

    usual, world.renderer.part = world.renderer.part, fail  # type: ignore[method-assign]
    with world.stream.reader([Filters()]) as reader:
        (told,) = await news(reader)
        assert told["full"]


async def test_the_end_wakes_readers() -> None:
    """The end of a daemon does not wait for them."""
    world = World()
    with world.stream.reader([Filters()]) as reader:
        await news(reader)
        waiting = asyncio.ensure_future(reader.wait(3600))
        await asyncio.sleep(0)
        world.stream.close()
        assert await asyncio.wait_for(waiting, within(60))


def turns(coroutine: Any) -> Iterator[Any]:
    """Yield for each turn that a coroutine gives to others; its result in the end."""
    while True:
        try:
            coroutine.send(None)
        except StopIteration as end:
            yield end.value
            return
        yield None


def test_very_many_backends_are_filtered_in_slices_and_once() -> None:
    snapshot = Snapshot.of(1, (Backend("web", f"id-{number}", "10.0.0.1", 80) for number in range(10_000)))
    matching, looks = Matching(Filters(q="ID-77", page=2)), 0
    *waits, page = turns(matching.page(snapshot, Conditions(), Owners(), Slices(seconds=0.0)))
    assert len(waits) >= 5
    assert (page.found, page.all, page.number, page.last) == (111, 10_000, 2, 2)
    assert len(page.rows) == 11
    known = dict(matching._known)
    changed = Snapshot(2, {"web": snapshot.services["web"].with_changes({"id-770": None})})
    *_, page = turns(matching.page(changed, Conditions(), Owners(), Slices(seconds=60.0)))
    looks = sum(id_ not in known for id_ in matching._known)
    assert page.found == 110
    assert 0 < looks <= 2, "only the run that changed is looked at again"


def test_a_backend_is_found_by_its_owner_also_if_the_owner_alone_changes() -> None:
    snapshot = Snapshot.of(1, [Backend("web", id_, "10.0.0.1", 80) for id_ in ("1", "2")])
    matching = Matching(Filters(q="THAT"))

    def found(owners: Owners) -> list[str]:
        *_, page = turns(matching.page(snapshot, Conditions(), owners, Slices()))
        return [each.id for each in page.rows]

    assert found(Owners({"web/1": "this", "web/2": None})) == []
    assert found(Owners({"web/1": "that one", "web/2": None}, moves=1)) == ["1"]
    assert found(Owners({"web/1": "that one", "web/2": "that one"}, moves=2)) == ["1", "2"]


async def test_different_views_are_few_whoever_asks_for_them() -> None:
    world = World()
    different = [Filters(q=str(number)) for number in range(MOST_DISTINCT)]
    assert world.stream.has_room(different)
    assert not world.stream.has_room([*different, Filters()])
    with world.stream.reader(different[:16]), world.stream.reader(different[16:]):
        assert world.stream.has_room(different[:16])
        assert not world.stream.has_room([*different[:15], Filters()])
    assert world.stream.has_room([Filters()])
