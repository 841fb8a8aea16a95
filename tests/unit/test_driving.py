"""What consumers drive is asked of them when somebody looks: about all once, and then about what has changed."""

import asyncio
import gc
import time
from collections.abc import Mapping, Sequence
from itertools import chain

from discovery.admin.driving import MOST_ASKED, Driven, Driving, Pace
from discovery.model import Backend, Snapshot
from discovery.testing import eventually, within

QUICK = Pace(least=0.0, most=0.0, every=3600.0)
"""Asks at once about what has changed, and once about everything."""
EAGER = QUICK._replace(every=0.0)


class Consumer:
    """Has a place for the services of `placed`, and tells of all but those of `untold`."""

    def __init__(self, *backends: Backend, tells: bool = True) -> None:
        self.tells_places = tells
        self.applies = 0
        self.applied: Snapshot | None = None
        self.placed = {"web"}
        self.untold: set[str] = set()
        self.error: Exception | None = None
        self.fails_on = ""
        self.asked: list[list[str]] = []
        if backends:
            self.apply(*backends)

    def apply(self, *backends: Backend) -> None:
        before = self.applied or Snapshot(0)
        changes = {each.key: each for each in backends}
        every = {each.key: each for service in before.services.values() for each in service.backends} | changes
        fresh = Snapshot.of(before.revision + 1, every.values())
        same = {name: before.services.get(name) for name in fresh.services}
        kept = {
            name: old if old is not None and old == new else new
            for (name, new), old in zip(fresh.services.items(), same.values(), strict=True)
        }
        self.applied = Snapshot(fresh.revision, kept)
        self.applies += 1

    async def places(self, backends: Sequence[Backend], timeout: float) -> Mapping[str, bool]:
        self.asked.append([each.key for each in backends])
        if self.error is not None:
            raise self.error
        if any(each.service == self.fails_on for each in backends):
            raise RuntimeError("too many")
        return {each.key: each.service in self.placed for each in backends if each.service not in self.untold}


def at(service: str, id_: str, port: int = 80) -> Backend:
    return Backend(service, id_, "10.0.0.1", port)


def driving(consumer: Consumer, pace: Pace = QUICK) -> Driving:
    return Driving(lambda: {"it": consumer}, pace=pace)


async def test_a_consumer_drives_what_it_has_a_place_for_and_nobody_is_asked_unlooked() -> None:
    consumer = Consumer(at("web", "a"), at("web", "b"), at("db", "a"), at("ftp", "a"))
    consumer.untold = {"ftp"}
    looked = driving(consumer)
    assert consumer.asked == []
    assert (await looked.look(within(20)))["it"] == Driven({"web": 2}, {"ftp": 1})
    assert sorted(chain.from_iterable(consumer.asked)) == ["db/a", "ftp/a", "web/a", "web/b"]


async def test_of_a_change_only_what_has_changed_is_asked() -> None:
    consumer = Consumer(at("web", "a"), at("db", "a"))
    looked = driving(consumer)
    await looked.look(within(20))
    consumer.asked.clear()
    await looked.look(within(20))
    assert consumer.asked == []
    consumer.apply(at("web", "b"))
    assert (await looked.look(within(20)))["it"].services == {"web": 2}
    assert consumer.asked == [["web/a", "web/b"]]


async def test_after_an_apply_of_the_same_snapshot_everything_is_asked_again() -> None:
    consumer = Consumer(at("web", "a"), at("db", "a"))
    looked = driving(consumer, EAGER)
    assert (await looked.look(within(20)))["it"].services == {"web": 1}
    consumer.placed, consumer.applies = {"db"}, consumer.applies + 1
    assert (await looked.look(within(20)))["it"].services == {"db": 1}


async def test_a_consumer_that_fails_is_asked_again_and_what_it_told_stands() -> None:
    consumer = Consumer(at("web", "a"))
    looked = driving(consumer)
    await looked.look(within(20))
    consumer.error = RuntimeError("busy")
    consumer.apply(at("db", "a"))
    assert (await looked.look(within(20)))["it"] == Driven({"web": 1}, {"db": 1}, is_whole=False)
    consumer.error = None
    await eventually(lambda: looked.glance()["it"] == Driven({"web": 1}), timeout=20)


async def test_a_consumer_that_has_never_answered_does_not_tell_what_it_drives_until_it_answers() -> None:
    consumer = Consumer(at("web", "a"), at("web", "b"), at("db", "a"))
    consumer.error = TimeoutError()
    told: list[None] = []
    looked = Driving(lambda: {"it": consumer}, lambda: told.append(None), QUICK)
    assert looked.glance()["it"] == Driven(is_whole=False)
    assert (await looked.look(within(20)))["it"] == Driven(untold={"web": 2, "db": 1}, is_whole=False)
    assert len(told) == 1
    consumer.error = None
    await eventually(lambda: looked.glance()["it"] == Driven({"web": 2}), timeout=20)


async def test_what_is_new_to_a_consumer_that_fails_is_told_before_the_consumer_is_asked_again() -> None:
    consumer = Consumer(at("web", "a"))
    consumer.error = RuntimeError("broken")
    looked = driving(consumer, Pace(least=3600.0, most=3600.0))
    await looked.look(within(20))
    consumer.apply(at("db", "a"))
    assert looked.glance()["it"].untold == {"web": 1, "db": 1}
    assert consumer.asked == [["web/a"]]


async def test_what_is_gone_is_forgotten_although_a_consumer_fails_on_the_rest() -> None:
    """Else a registry that changes all the time would take ever more memory."""
    consumer = Consumer(*(at("z", str(number)) for number in range(MOST_ASKED)))
    consumer.fails_on = "z"
    looked = driving(consumer)
    for port in range(1, 6):
        consumer.apply(*(at("changing", str(number), port) for number in range(MOST_ASKED)))
        await looked.look(within(20))
    assert any("changing/0" in keys for keys in consumer.asked)
    gc.collect()
    alive = [each for each in gc.get_objects() if isinstance(each, Backend) and each.service == "changing"]
    assert len(alive) <= 2 * MOST_ASKED, "what is applied, and what was asked about last"
    looked.close()


async def test_nobody_is_asked_after_the_end() -> None:
    """A page that is made while the daemon ends looks once more."""
    consumer = Consumer(at("web", "a"))
    looked = driving(consumer)
    looked.close()
    assert await looked.look(within(20)) == looked.glance() == {}
    assert consumer.asked == []


async def test_many_backends_are_asked_about_in_parts_and_each_part_is_told() -> None:
    consumer = Consumer(*(at("web", str(number)) for number in range(3 * MOST_ASKED)))
    told: list[None] = []
    looked = Driving(lambda: {"it": consumer}, lambda: told.append(None), QUICK)
    assert not looked.glance()["it"].is_whole
    assert (await looked.look(within(20)))["it"].services == {"web": 3 * MOST_ASKED}
    assert all(len(each) <= MOST_ASKED for each in consumer.asked)
    assert len(told) == len(consumer.asked)


async def test_a_consumer_whose_plugin_does_not_tell_is_not_asked() -> None:
    consumer = Consumer(at("web", "a"), tells=False)
    looked = driving(consumer)
    assert (await looked.look(within(20)))["it"] == Driven(untold={"web": 1}, tells=False)
    consumer.apply(at("db", "a"))
    assert looked.glance()["it"].untold == {"web": 1, "db": 1}
    assert consumer.asked == []


async def test_slow_answers_are_asked_for_less_often() -> None:
    consumer = Consumer(at("web", "a"))
    looked = driving(consumer, Pace(least=3600.0, most=3600.0))
    await looked.look(within(20))
    consumer.asked.clear()
    consumer.apply(at("web", "b"))
    for _ in range(3):
        await looked.look(within(1))
    assert consumer.asked == []


async def test_a_consumer_that_is_late_again_and_again_is_asked_ever_less_often() -> None:
    consumer = Consumer(at("web", "a"))
    pauses: list[float] = []
    asked = 0.0

    async def late(backends: Sequence[Backend], timeout: float) -> Mapping[str, bool]:
        nonlocal asked
        if asked:
            pauses.append(time.monotonic() - asked)
        await asyncio.sleep(0.02)
        asked = time.monotonic()
        raise TimeoutError

    consumer.places = late  # type: ignore[method-assign]
    looked = driving(consumer, Pace(least=0.0))

    def look() -> bool:
        looked.glance()
        return len(pauses) == 3

    await eventually(look, timeout=20)
    looked.close()
    # The question itself takes 0.02 s, and the pauses are twice, four and eight times as long.
    assert [pause >= wanted for pause, wanted in zip(pauses, (0.04, 0.08, 0.16), strict=True)] == [True] * 3


async def test_what_is_gone_is_asked_no_more() -> None:
    consumers = {"it": Consumer(at("web", "a"))}
    looked = Driving(lambda: consumers, pace=QUICK)
    await looked.look(within(20))
    consumers["it"] = Consumer(at("db", "a"), at("web", "z"))
    assert (await looked.look(within(20)))["it"].services == {"web": 1}
    consumers.clear()
    assert looked.glance() == {}
    looked.close()
    await asyncio.sleep(0)
