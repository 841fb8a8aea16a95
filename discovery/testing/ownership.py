"""The part of the contract of registries that concerns the owner of a record, and the ways to another owner."""

import asyncio

from discovery.codec import Record, decode, encode
from discovery.errors import CannotBeAskedError, OwnedByAnotherError
from discovery.registry import HandsOver, TellsWhenFree
from discovery.system.asyncio_tools import cancel_and_wait
from discovery.testing.clauses import equal, expect, raising
from discovery.testing.follower import contents, following
from discovery.testing.place import PLAIN
from discovery.testing.stage import SharedPlace, Stage, shared, shared_later

_RACES = 3
"""Keys that two owners put at the same time, one after the other."""
_EARLY_SECONDS = 0.4
"""Seconds for what must not happen yet: a registry takes milliseconds for a call."""


class OwnershipContract(SharedPlace):
    """Tests of who may write a record, and of records that move to another owner."""

    @shared
    async def test_the_record_of_another_owner_is_left_alone(self, stage: Stage) -> None:
        """Two machines that claim the same key would take turns, and clients would see both."""
        web = stage.backend()
        await self._call("put", stage.first.put(web))
        with raising(OwnedByAnotherError, "first"):
            await self._call("put", stage.second.put(stage.backend(weight=9)))
        await self._call("delete", stage.second.delete(stage.backend()))
        equal(await contents(stage.registry), {web.key: encode(web, "first", stage.first.ttl)})

    @shared
    async def test_of_two_owners_that_put_at_once_one_is_refused(self, stage: Stage) -> None:
        """The look for another owner and the write are one step: else both believe that the record is theirs."""
        for number in range(_RACES):
            wanted = stage.backend(id=f"n{number}")
            both = asyncio.gather(stage.first.put(wanted), stage.second.put(wanted), return_exceptions=True)
            results = await self._call("two puts at once", both)
            refused = [isinstance(each, OwnedByAnotherError) for each in results]
            expect(sorted(refused) == [False, True], "one put and one OwnedByAnotherError", results)

    @shared
    async def test_a_record_without_an_owner_is_left_alone(self, stage: Stage) -> None:
        """A person has written that record, and expects the record to stay."""
        key = stage.backend().key
        await stage.write(key, PLAIN)
        with raising(OwnedByAnotherError):
            await self._call("put", stage.first.put(stage.backend()))
        equal(await contents(stage.registry), {key: PLAIN})

    @shared_later
    async def test_force_takes_a_record_over_and_its_owner_learns_of_it(self, stage: Stage) -> None:
        """An operator may move a key; the owner before must not take it back unasked."""
        key = stage.backend().key
        first = await stage.open_lease(self.ttl)
        await self._call("put", first.put(stage.backend()))
        await self._call("put", stage.second.put(stage.backend(weight=9), force=True))
        await self._lost(first)
        await self._call("delete", first.delete(stage.backend()))
        await self._call("close", first.close())
        record = decode(key, (await contents(stage.registry))[key])
        expect(isinstance(record, Record), "a valid record", record)
        assert isinstance(record, Record)
        equal((record.owner, record.backend.weight), ("second", 9))

    @shared_later
    async def test_a_lease_that_tells_when_a_refused_key_is_free_tells_so(self, stage: Stage) -> None:
        """Point 4. A lease that is not `TellsWhenFree` passes: the registrar then tries again every TTL."""
        second, web, other = stage.second, stage.backend(), stage.backend(id="other")
        third_web, keys = stage.backend(id="third"), {web.key, other.key}
        if not isinstance(second, TellsWhenFree):
            return
        async with stage.lease(stage.registry, "third", self.ttl) as third:
            await self._call("put", third.put(third_web))
            await self._call("put", stage.first.put(other))
            async with stage.lease(stage.registry) as first:
                for by_itself in (True, False):
                    await self._call("put", first.put(web))
                    waiting = stage.begin(second.until_free(keys))
                    if by_itself:  # a write does not make a key free
                        await self._call("put", stage.first.put(stage.backend(id="other", weight=2)))
                    early = (await asyncio.wait({waiting}, timeout=_EARLY_SECONDS))[0]
                    expect(not early, "until_free to wait while the keys are taken", early)
                    await (self._call("delete", first.delete(web)) if by_itself else stage.remove(web.key))
                    await self._call("until_free", waiting)
                await self._call("until_free", second.until_free(keys))  # the key is already free
            waiting = stage.begin(second.until_free({third_web.key}))
            await stage.expire(third)
            await self._call("until_free", waiting)

    @shared_later
    async def test_a_record_is_handed_over_to_an_owner_that_asks_and_exists_throughout(self, stage: Stage) -> None:
        """An operator moves a key without a gap. A lease that is not `HandsOver` passes: keys are moved by force."""
        web, heavy = stage.backend(), stage.backend(weight=9)
        kept, changed = stage.backend(id="kept"), stage.backend(id="kept", weight=2)
        async with (
            following(stage.registry) as follower,
            stage.lease(stage.another, "second", self.ttl) as second,
            stage.lease(stage.registry, "first", self.ttl) as first,
        ):
            if not isinstance(first, HandsOver) or not isinstance(second, HandsOver):
                return
            await self._call("two puts at once", asyncio.gather(first.put(web), first.put(kept)))
            await follower.lists(web.key, kept.key)
            asked = stage.begin(second.take_over(heavy))
            early = (await asyncio.wait({asked}, timeout=_EARLY_SECONDS))[0]
            expect(not early, "take_over to wait until the owner agrees", early)
            handed = await self._call("handed_over", first.handed_over())
            equal(handed, (web.key, second.owner))
            await self._call("take_over", asked)
            await follower.sees(web.key, encode(heavy, second.owner, second.ttl))
            # Both go on, and neither counts the move as a loss.
            await self._call("put", first.put(changed))
            await follower.sees(kept.key, encode(changed, first.owner, first.ttl))
            await self._call("delete", first.delete(web))
            with raising(OwnedByAnotherError, second.owner):
                await self._call("put", first.put(web))
            losing = {stage.begin(lease.lost()) for lease in (first, second)}
            lost = (await asyncio.wait(losing, timeout=self.ttl * 0.75))[0]  # each renews once at least
            await cancel_and_wait(*losing)
            expect(not lost, "no lease to be lost", lost)
            equal([delta.deletes for delta in follower.deltas if delta.deletes], [])
            equal({key for delta in follower.deltas for key in delta.puts}, {web.key, kept.key})
            await self._call("close", first.close())
            await follower.lists(web.key)

    @shared
    async def test_a_request_for_a_record_is_withdrawn_by_its_end_and_a_free_key_is_taken_at_once(
        self, stage: Stage
    ) -> None:
        """An operator who gives up must not get the key later; and the owner may be gone before it answers."""
        web, heavy, first, second = stage.backend(), stage.backend(weight=9), stage.first, stage.second
        if not isinstance(first, HandsOver) or not isinstance(second, HandsOver):
            return
        await self._call("put", first.put(web))
        asked = stage.begin(second.take_over(heavy))
        await asyncio.wait({asked}, timeout=_EARLY_SECONDS)
        await cancel_and_wait(asked)
        handing = stage.begin(first.handed_over())
        early = (await asyncio.wait({handing}, timeout=_EARLY_SECONDS))[0]
        expect(not early, "nothing to be handed over after the request was withdrawn", early)
        await cancel_and_wait(handing)
        asked = stage.begin(second.take_over(heavy))
        await asyncio.wait({asked}, timeout=_EARLY_SECONDS)
        await self._call("delete", first.delete(web))
        await self._call("take_over", asked)
        equal((await contents(stage.registry))[web.key], encode(heavy, "second", second.ttl))
        await stage.write(stage.key("web/hand"), PLAIN)
        with raising(CannotBeAskedError):
            await self._call("take_over", second.take_over(stage.backend(id="hand")))

    @shared
    async def test_an_owner_takes_its_own_record_over_with_a_new_lease(self, stage: Stage) -> None:
        """A daemon that starts again finds the records of its last run, which must not expire under it."""
        web = stage.backend()
        old = await stage.open_lease()
        await self._call("put", old.put(web))
        async with stage.lease(stage.another) as new:
            await self._call("put", new.put(web))
            await self._call("close", old.close())
            expect(web.key in (there := await contents(stage.registry)), f"the record {web.key}", there)
        equal(await contents(stage.registry), {})
