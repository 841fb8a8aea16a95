"""When views of the live page are painted, and that no reader has its views painted at the cost of the others."""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from discovery.admin.page.facts import Facts
from discovery.admin.page.filters import Filters
from discovery.admin.page.matching import Slices
from discovery.admin.page.pacing import UPDATES, Pace, Painted, due, in_turn, parts
from discovery.admin.page.painting import Painter, Picture, View
from discovery.admin.page.stream import Reader, Stream
from discovery.admin.status import DaemonStatus
from discovery.admin.waiters import Waiters
from discovery.testing import eventually, within

PACE = Pace(least=0.2, look=1.0, share=0.03)
MANY = st.lists(st.sets(st.sampled_from("abcdefgh"), min_size=1), min_size=1)


class Plain:
    def part(self, name: str, *values: Any) -> str:
        return f"{name} {values!r}"


class Costly(Painter):
    """Every picture differs from the one before; one of a view that looks for "costly" takes a while."""

    def __init__(self) -> None:
        super().__init__(Plain())
        self.painted: list[str] = []

    async def paint(self, view: View, facts: Facts, slices: Slices) -> Picture:
        self.painted.append(view.filters.q)
        await asyncio.sleep(0)
        if view.filters.q.startswith("costly"):
            end = time.thread_time() + 0.02
            while time.thread_time() < end:
                pass
        if view.filters.q == "faulty":
            raise ValueError("a fault of one view")
        return Picture({"number": str(len(self.painted))}, {})


def test_a_new_view_is_due_at_once_and_others_after_their_pause() -> None:
    assert due(Painted(7.0), PACE, 1.0, 5) == 7.0
    assert due(Painted(7.0, 0.003, told=4), PACE, 1.0, 5) == pytest.approx(7.2)
    assert due(Painted(7.0, 0.003, told=5), PACE, 1.0, 5) == pytest.approx(8.0), "nobody has told of news"
    assert due(Painted(7.0, 0.03, told=4), PACE, 1.0, 5) == pytest.approx(8.0)
    assert due(Painted(7.0, 0.03, told=4), PACE, 0.5, 5) == pytest.approx(9.0)


@given(MANY, st.data())
def test_all_views_together_have_the_share_and_readers_equal_parts(
    readers: list[set[str]], data: st.DataObject
) -> None:
    found = parts(readers)
    assert sum(found.values()) == pytest.approx(1.0)
    costs = {each: data.draw(st.floats(1e-6, 1.0)) for each in found}
    pauses = {each: due(Painted(0.0, costs[each], 0), PACE, found[each], 1) for each in found}
    assert sum(costs[each] / pauses[each] for each in found) <= PACE.share * (1 + 1e-9)
    more = parts([*readers, set("ijklmnop")])
    assert all(more[each] >= found[each] * len(readers) / (len(readers) + 1) - 1e-9 for each in found)


@given(MANY)
def test_the_first_views_of_all_readers_come_before_any_second(readers: list[set[str]]) -> None:
    times = {each: float(number) for number, each in enumerate("abcdefgh")}
    turn = in_turn(readers, times, 5.0)
    assert sorted(turn) == sorted({each for views in readers for each in views if times[each] <= 5.0})
    firsts = {min(views) for views in readers if times[min(views)] <= 5.0}
    assert set(turn[: len(firsts)]) == firsts


@contextmanager
def stream(painter: Painter, pace: Pace) -> Iterator[tuple[Stream, Callable[[], None]]]:
    """A stream, and what tells of news."""
    waiters = Waiters()
    yield Stream(lambda: Facts(DaemonStatus("memory://")), painter, waiters, pace), waiters.tell


async def got(reader: Reader) -> None:
    """Wait for news, and take them."""

    async def has_come() -> bool:
        await reader.wait(within(60))
        return bool(list(reader.take()))

    await eventually(has_come, timeout=60)


async def test_fresh_views_of_others_delay_nobody() -> None:
    """Before, each of them took 20 ms / 3 % of everybody's time: two thirds of a second."""
    painter = Costly()
    with stream(painter, PACE._replace(look=3600.0)) as (live, tell), live.reader([Filters(q="mine")]) as mine:
        await got(mine)
        for number in range(30):
            with live.reader([Filters(q=f"costly {number}")]) as other:
                await got(other)
        tell()
        begun = time.monotonic()
        await got(mine)
        assert time.monotonic() - begun < within(2)


async def test_many_costly_views_of_another_are_painted_between_mine() -> None:
    painter = Costly()
    with stream(painter, PACE._replace(look=3600.0, least=0.0, share=1000.0)) as (live, tell), ExitStack() as readers:
        mine = readers.enter_context(live.reader([Filters(q="mine")]))
        await got(mine)
        readers.enter_context(live.reader([Filters(q=f"costly {number}") for number in range(16)]))
        await eventually(lambda: len(painter.painted) > 1, timeout=60)
        before = len(painter.painted)
        tell()
        await got(mine)
        assert len(painter.painted) - before <= 8, "two rounds at most: the one that goes on, and the next"


async def test_a_fault_of_one_view_does_not_delay_the_others() -> None:
    painter = Costly()
    with (
        stream(painter, PACE._replace(look=3600.0, least=0.0)) as (live, _),
        live.reader([Filters(q="faulty")]),
        live.reader([Filters(q="well")]) as well,
    ):
        await got(well)


async def test_a_reader_gets_no_more_updates_than_may_be_whatever_is_painted() -> None:
    """Its views are painted whenever it is told, ever so often; and its first picture comes just before an update."""
    pace = Pace(least=0.0, look=3600.0, share=1000.0)
    with stream(Costly(), pace) as (live, tell), live.reader([Filters(q="a"), Filters(q="b")]):
        reader = Reader([*live._views.values()], 0.1)
        for each in live._views.values():
            each.readers.add(reader)
        times: list[tuple[float, float]] = []  # before and after each update, since another program may run between
        while len(times) < 3 * UPDATES:
            tell()
            await reader.wait(0.01)
            begun = time.monotonic()
            if list(reader.take()):
                times.append((begun, time.monotonic()))
        spans = [after - before for (before, _), (_, after) in zip(times, times[UPDATES:], strict=False)]
        assert min(spans) >= 0.1 * UPDATES - 0.001


async def test_a_first_picture_waits_for_no_pause() -> None:
    pace = Pace(least=0.0, look=3600.0, share=1000.0)
    with stream(Costly(), pace) as (live, _), live.reader([Filters(q="a")]) as one, live.reader([Filters(q="b")]):
        await got(one)
        first, second = live._views.values()
        reader = Reader([first, second], 3600.0)
        second.version, version = 0, second.version
        for _ in range(UPDATES):
            assert len(list(reader.take())) == 1
            first.version += 1
            reader.wake()
        assert list(reader.take()) == []
        reader.tell()
        assert list(reader.take()) == []
        second.version = version + 1
        reader.tell()
        assert len(list(reader.take())) == 1
        reader.end()
        await asyncio.sleep(0)
