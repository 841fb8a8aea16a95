"""The part of the contract of registries that concerns the owner of a record, and the ways to another owner."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from discovery.codec import Record, decode, encode
from discovery.errors import CannotBeAskedError, OwnedByAnotherError
from discovery.registry import HandsOver, Lease, Registry, TellsWhenFree
from discovery.system.asyncio_tools import cancel_and_wait
from discovery.testing.builders import backend
from discovery.testing.clauses import clause, equal, expect, raising
from discovery.testing.follower import contents, following
from discovery.testing.place import KEY, PLAIN, RegistryPlace

_RACES = 4
"""Keys that two owners put at the same time, one after the other."""


class HandingLease(Lease, HandsOver, Protocol):
    """A lease that hands records over."""


class OwnershipContract(RegistryPlace):
    """Tests of who may write a record, and of records that move to another owner."""

    @clause
    def test_the_record_of_another_owner_is_left_alone(self) -> None:
        """Two machines that claim the same key would take turns, and clients would see both."""

        async def check(registry: Registry) -> None:
            async with self._lease(registry, "first") as first, self._lease(self._another(), "second") as second:
                await self._call("put", first.put(backend()))
                before = await contents(registry)
                with raising(OwnedByAnotherError, "first"):
                    await self._call("put", second.put(backend(weight=9)))
                await self._call("delete", second.delete(backend()))
                equal(await contents(registry), before)

        self._run(check)

    @clause
    def test_of_two_owners_that_put_at_once_one_is_refused(self) -> None:
        """The look for another owner and the write are one step: else both believe that the record is theirs."""

        async def check(registry: Registry) -> None:
            async with self._lease(registry, "first") as first, self._lease(self._another(), "second") as second:
                for number in range(_RACES):
                    wanted = backend(id=f"n{number}")
                    both = asyncio.gather(first.put(wanted), second.put(wanted), return_exceptions=True)
                    results = await self._call("two puts at once", both)
                    refused = [isinstance(each, OwnedByAnotherError) for each in results]
                    expect(sorted(refused) == [False, True], "one put and one OwnedByAnotherError", results)

        self._run(check)

    @clause
    def test_a_record_without_an_owner_is_left_alone(self) -> None:
        """A person has written that record, and expects the record to stay."""

        async def check(registry: Registry) -> None:
            await self.write(KEY, PLAIN)
            async with self._lease(registry) as lease:
                with raising(OwnedByAnotherError):
                    await self._call("put", lease.put(backend()))
            equal(await contents(registry), {KEY: PLAIN})

        self._run(check)

    @clause
    def test_force_takes_a_record_over_and_its_owner_learns_of_it(self) -> None:
        """An operator may move a key; the owner before must not take it back unasked."""

        async def check(registry: Registry) -> None:
            async with self._lease(registry, "first") as first, self._lease(self._another(), "second") as second:
                await self._call("put", first.put(backend()))
                await self._call("put", second.put(backend(weight=9), force=True))
                await self._lost(first)
                await self._call("delete", first.delete(backend()))
                await self._call("close", first.close())
                record = decode(KEY, (await contents(registry))[KEY])
                expect(isinstance(record, Record), "a valid record", record)
                assert isinstance(record, Record)
                equal((record.owner, record.backend.weight), ("second", 9))

        self._run(check)

    @clause
    def test_a_lease_that_tells_when_a_refused_key_is_free_tells_so(self) -> None:
        """Point 4. A lease that is not `TellsWhenFree` passes: the registrar then tries again every TTL."""
        keys = {KEY, "web/other"}

        async def check(registry: Registry) -> None:
            first = await self._call("open_lease", registry.open_lease("first", self.ttl))
            async with self._lease(self._another(), "second") as second, self._lease(registry, "other") as other:
                if not isinstance(second, TellsWhenFree):
                    return
                await self._call("put", other.put(backend(id="other")))
                for by_itself in (True, False):
                    await self._call("put", first.put(backend()))
                    waiting = asyncio.ensure_future(second.until_free(keys))
                    await other.put(backend(id="other", weight=2))  # a write does not make a key free
                    early = (await asyncio.wait({waiting}, timeout=0.5))[0]
                    expect(not early, "until_free to wait while the keys are taken", early)
                    await (first.delete(backend()) if by_itself else self.remove(KEY))
                    await self._call("until_free", waiting)
                    await self._call("until_free", second.until_free(keys))  # the key is already free
                async with self._lease(registry, "third") as third:
                    await self._call("put", third.put(backend(id="third")))
                    waiting = asyncio.ensure_future(second.until_free({"web/third"}))
                    await self.expire(third)
                    await self._call("until_free", waiting)
            await self._call("close", first.close())

        self._run(check)

    @clause
    def test_a_record_is_handed_over_to_an_owner_that_asks_and_exists_throughout(self) -> None:
        """An operator moves a key without a gap. A lease that is not `HandsOver` passes: keys are moved by force."""

        async def check(registry: Registry, first: HandingLease, second: HandingLease) -> None:
            async with following(registry) as follower:
                await self._call("put", first.put(backend()))
                await self._call("put", first.put(backend(id="kept")))
                await follower.lists(KEY, "web/kept")
                asked = asyncio.ensure_future(second.take_over(backend(weight=9)))
                early = (await asyncio.wait({asked}, timeout=0.3))[0]
                expect(not early, "take_over to wait until the owner agrees", early)
                handed = await self._call("handed_over", first.handed_over())
                equal(handed, (KEY, "second"))
                await self._call("take_over", asked)
                await follower.sees(KEY, encode(backend(weight=9), "second", second.ttl))
                # Both go on, and neither counts the move as a loss.
                await self._call("put", first.put(backend(id="kept", weight=2)))
                await follower.sees("web/kept", encode(backend(id="kept", weight=2), "first", first.ttl))
                await self._call("delete", first.delete(backend()))
                with raising(OwnedByAnotherError, "second"):
                    await self._call("put", first.put(backend()))
                losing = {asyncio.ensure_future(lease.lost()) for lease in (first, second)}
                lost = (await asyncio.wait(losing, timeout=self.ttl * 0.75))[0]  # each renews once at least
                await cancel_and_wait(*losing)
                expect(not lost, "no lease to be lost", lost)
                equal([delta.deletes for delta in follower.deltas if delta.deletes], [])
                equal({key for delta in follower.deltas for key in delta.puts}, {KEY, "web/kept"})
                await self._call("close", first.close())
                await follower.lists(KEY)

        self._run_if_keys_are_handed_over(check)

    @clause
    def test_a_request_for_a_record_is_withdrawn_by_its_end_and_a_free_key_is_taken_at_once(self) -> None:
        """An operator who gives up must not get the key later; and the owner may be gone before it answers."""

        async def check(registry: Registry, first: HandingLease, second: HandingLease) -> None:
            await self._call("put", first.put(backend()))
            asked = asyncio.ensure_future(second.take_over(backend(weight=9)))
            await asyncio.wait({asked}, timeout=0.3)
            await cancel_and_wait(asked)
            handing = asyncio.ensure_future(first.handed_over())
            early = (await asyncio.wait({handing}, timeout=0.5))[0]
            expect(not early, "nothing to be handed over after the request was withdrawn", early)
            await cancel_and_wait(handing)
            asked = asyncio.ensure_future(second.take_over(backend(weight=9)))
            await asyncio.wait({asked}, timeout=0.3)
            await self._call("delete", first.delete(backend()))
            await self._call("take_over", asked)
            equal((await contents(registry))[KEY], encode(backend(weight=9), "second", second.ttl))
            await self.write("web/hand", PLAIN)
            with raising(CannotBeAskedError):
                await self._call("take_over", second.take_over(backend(id="hand")))

        self._run_if_keys_are_handed_over(check)

    @clause
    def test_an_owner_takes_its_own_record_over_with_a_new_lease(self) -> None:
        """A daemon that starts again finds the records of its last run, which must not expire under it."""

        async def check(registry: Registry) -> None:
            old = await self._call("open_lease", registry.open_lease("host-1", self.ttl))
            await self._call("put", old.put(backend()))
            async with self._lease(self._another(), "host-1") as new:
                await self._call("put", new.put(backend()))
                await self._call("close", old.close())
                expect(KEY in (there := await contents(registry)), f"the record {KEY}", there)
            equal(await contents(registry), {})

        self._run(check)

    def _run_if_keys_are_handed_over(
        self, check: Callable[[Registry, HandingLease, HandingLease], Coroutine[Any, Any, None]]
    ) -> None:
        """Run `check` with leases of the owners "first" and "second", on connections of their own."""

        async def run(registry: Registry) -> None:
            async with self._lease(registry, "first") as first, self._lease(self._another(), "second") as second:
                if isinstance(first, HandsOver) and isinstance(second, HandsOver):
                    await check(registry, first, second)

        self._run(run)
