"""The members of the registry are asked when somebody looks, of many lookers once."""

import asyncio
from typing import Any

import pytest

from discovery.admin.members import MembersLook, Told, members_document
from discovery.errors import RegistryError
from discovery.hosting.registries import isolated
from discovery.registry import Member, Membership, Registry, RegistryURL, open_registry
from discovery.registry.memory import MemoryRegistry
from discovery.testing import eventually

URL = RegistryURL.parse("memory://")
ALL = Membership((Member("n1", ("10.0.0.1:2379",), True, True, "3.5.21", 1000),))


class Telling(MemoryRegistry):
    """A registry that tells its members, once it may."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0
        self.may_tell = asyncio.Event()
        self.may_tell.set()

    async def members(self) -> Membership:
        self.asked += 1
        await self.may_tell.wait()
        return ALL


def looking(registry: Registry, fresh: float = 1000.0) -> MembersLook:
    look = MembersLook(fresh)
    look.use(registry)
    return look


async def test_nobody_is_asked_before_somebody_looks_and_of_many_lookers_once() -> None:
    registry = Telling()
    look = looking(registry)
    assert (look.tells, registry.asked) == (True, 0)
    answers = await asyncio.gather(*(look.look(60) for _ in range(10)))
    assert [each and each.membership for each in answers] == [ALL] * 10
    assert look.glance() == answers[0]
    assert registry.asked == 1


async def test_an_old_answer_is_shown_while_a_new_one_is_asked_for() -> None:
    registry = Telling()
    look = looking(registry, fresh=0.0)
    await look.look(60)
    registry.may_tell.clear()
    shown = look.glance()
    assert shown is not None
    assert shown.membership == ALL
    await eventually(lambda: registry.asked == 2)
    assert look.glance() == shown
    assert await look.look(0.0) == shown
    assert registry.asked == 2, "the second question has no answer yet"
    look.stop()


async def test_who_looks_does_not_wait_for_a_registry_that_hangs() -> None:
    registry = Telling()
    registry.may_tell.clear()
    look = looking(registry)
    assert await look.look(0.01) is None
    assert members_document(None)["reason"] == "the registry has not told its members yet"
    look.stop()


async def test_an_error_is_told_as_the_reason() -> None:
    class Fails(MemoryRegistry):
        async def members(self) -> Membership:
            raise RegistryError("it burns")

    told = await looking(Fails()).look(60)
    assert told is not None
    document = members_document(told)
    assert (document["members"], document["reason"]) == ([], "it burns")


async def test_another_registry_is_asked_and_the_answer_of_the_one_before_is_forgotten() -> None:
    first, second = Telling(), Telling()
    look = looking(first)
    first.may_tell.clear()
    assert await look.look(0.01) is None
    look.use(second)
    first.may_tell.set()
    told = await look.look(60)
    assert told is not None
    look.use(second)
    assert look.glance() == told, "it is the same registry"
    look.stop()
    assert (look.glance(), look.tells, second.asked) == (None, False, 1)


@pytest.mark.parametrize("url", ["memory://", "file:///tmp"])
async def test_a_registry_without_members_is_not_asked(url: str) -> None:
    registry = open_registry(RegistryURL.parse(url))
    look = looking(registry)
    assert not look.tells
    assert await look.look(60) is None
    await registry.close()


async def test_a_plugins_registry_is_asked_on_its_own_loop() -> None:
    registry = isolated(lambda url: Telling())(URL)
    told = await looking(registry).look(60)
    assert told is not None
    assert (told.membership, told.reason) == (ALL, None)
    await registry.close()


async def test_a_plugins_registry_without_members_tells_none() -> None:
    registry = isolated(lambda url: MemoryRegistry())(URL)
    told = await looking(registry).look(60)
    assert told is not None
    assert (told.membership, told.reason) == (Membership(), None)
    await registry.close()


@pytest.mark.parametrize(
    "answer",
    [
        None,
        [Member("n1", ())],
        Membership(("n1",)),
        Membership([Member("n1", ())]),
        Membership((Member(1, ()),)),
        Membership((Member("n1", (1,)),)),
        Membership((Member("n1", (), size="much"),)),
        Membership((Member("n1", (), leads="yes"),)),
        Membership((), 1),
    ],
)
async def test_what_a_plugin_tells_in_place_of_members_is_the_reason(answer: Any) -> None:
    class Wrong(MemoryRegistry):
        async def members(self) -> Any:
            return answer

    registry = isolated(lambda url: Wrong())(URL)
    told = await looking(registry).look(60)
    assert told is not None
    assert told.membership == Membership()
    assert "in place of its members" in (told.reason or "")
    await registry.close()


def test_the_document_says_how_each_member_is() -> None:
    members = (
        Member("n1", ("a:1",), True, True, "3.5.21", 1000),
        Member("n2", ("b:1",), False, reason="no answer"),
        Member("n3", ("c:1",), None, False, asked=False, reason="not named"),
        Member("", ("d:1",), None, True, "3.5.21", 5, reason="half an answer"),
    )
    document = members_document(Told(Membership(members, "something is missing"), 0.0))
    assert document["reason"] == "something is missing"
    assert [(each["state"], each["role"]) for each in document["members"]] == [
        ("answers", "leader"),
        ("not serving", "follower"),
        ("not asked", "learner"),
        ("degraded", None),
    ]
