"""The part of the contract of registries that concerns leases."""

import asyncio
from collections.abc import Collection

from discovery.codec import Record, decode, encode
from discovery.errors import CannotBeAskedError, LeaseLostError, OwnedByAnotherError, RecordError
from discovery.registry import HandsOver, Lease, Registry, TellsWhenFree
from discovery.system.asyncio_tools import cancel_and_wait
from discovery.testing.builders import backend
from discovery.testing.clauses import clause, equal, expect, raising
from discovery.testing.follower import contents, following
from discovery.testing.place import RegistryPlace

PLAIN = b"10.0.0.1:80"
KEY = backend().key
_RACES = 4
"""Keys that two owners put at the same time, one after the other."""


class LeaseContract(RegistryPlace):
    """Tests of who may write a record, how long a record stands, and what the owner of a lease learns."""

    @clause
    def test_a_lease_writes_the_record_with_its_owner(self) -> None:
        """The owner decides who may change a record, and the TTL when a reader gives up a machine that is dead."""

        async def check(registry: Registry) -> None:
            web = backend(labels={"zone": "a"}, weight=3)
            lease = await self._call("open_lease", registry.open_lease("host-1", self.ttl))
            await self._call("put", lease.put(web))
            record = decode(web.key, (await contents(registry))[web.key])
            expect(isinstance(record, Record), "a valid record", record)
            assert isinstance(record, Record)
            equal((record.backend, record.owner, record.ttl), (web, "host-1", lease.ttl))
            equal(lease.owner, "host-1")
            ttl: object = lease.ttl
            near = isinstance(ttl, int | float) and self.ttl * 0.99 <= ttl <= self.ttl * 2 + 1
            expect(near, f"a lease of {self.ttl:g} s, as asked for", ttl)
            await self._call("close", lease.close())

        self._run(check)

    @clause
    def test_leased_records_are_told_with_their_ttl(self) -> None:
        """After a gap the removal of a leased record is held for its TTL; other removals count at once."""

        async def check(registry: Registry) -> None:
            await self.write("db/b", PLAIN)
            async with following(registry) as follower:
                if follower.leases is None:
                    return  # the registry reports no leases: consumers then apply every removal at once
                async with self._lease(registry) as lease:
                    await self._call("put", lease.put(backend()))
                    await follower.lists("db/b", KEY)
                    equal(follower.leases, {KEY: lease.ttl})
                    async with following(self._another()) as other:
                        equal(other.leases, {KEY: lease.ttl})
                    await self.remove(KEY)
                    await self.write(KEY, PLAIN)
                    await follower.sees(KEY, PLAIN)
                    equal(follower.leases, {})

        self._run(check)

    @clause
    def test_a_record_outlives_its_ttl_while_its_owner_lives(self) -> None:
        """A lease renews itself: a record that blinks takes a living backend out of service."""

        async def check(registry: Registry) -> None:
            async with following(registry) as follower, self._lease(registry) as lease:
                await self._call("put", lease.put(backend()))
                await follower.lists(KEY)
                told = len(follower.deltas)
                await asyncio.sleep(self.ttl * 1.5)
                equal(follower.deltas[told:], [])

        self._run(check)

    @clause
    def test_putting_the_same_again_writes_nothing(self) -> None:
        """A registrar puts all of its records after each doubt: each write is a change for every consumer."""

        async def check(registry: Registry) -> None:
            async with following(registry) as follower, self._lease(registry) as lease:
                for _ in range(3):
                    await self._call("put", lease.put(backend()))
                await self._call("put", lease.put(backend(id="last")))
                await follower.lists(KEY, "web/last")
                equal(sum(KEY in delta.puts for delta in follower.deltas), 1)

        self._run(check)

    @clause
    def test_a_change_and_a_delete_through_a_lease_arrive(self) -> None:
        """A backend that drains changes its record, and a backend that stops is withdrawn at once."""

        async def check(registry: Registry) -> None:
            async with following(registry) as follower, self._lease(registry) as lease:
                for weight in (1, 2):
                    await self._call("put", lease.put(backend(weight=weight)))
                    await follower.sees(KEY, encode(backend(weight=weight), lease.owner, lease.ttl))
                async with self._lease(self._another(), lease.owner) as later:  # a daemon that was started again
                    await self._call("put", later.put(backend(weight=3)))
                    await follower.sees(KEY, encode(backend(weight=3), later.owner, later.ttl))
                    blinks = [delta for delta in follower.deltas if KEY in delta.deletes]
                    expect(not blinks, "a change of a record, and never its removal before", blinks)
                    await self._call("delete", lease.delete(backend(weight=3)))
                    expect(KEY in (there := await contents(registry)), "the record, which another lease holds", there)
                await self._call("put", lease.put(backend(weight=2)))
                await self._call("delete", lease.delete(backend()))
                await follower.sees(KEY, None)
                await self._call("delete", lease.delete(backend()))

        self._run(check)

    @clause
    def test_what_no_reader_would_accept_is_not_written(self) -> None:
        """A record that readers reject serves nobody, and only its writer can tell somebody."""

        async def check(registry: Registry) -> None:
            async with self._lease(registry) as lease:
                with raising(RecordError):
                    await self._call("put", lease.put(backend(host="not a host")))
            equal(await contents(registry), {})

        self._run(check)

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
        """An operator may move a key; the owner before must not take it back by chance."""

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

        async def check(registry: Registry) -> None:
            async with self._lease(registry, "first") as first, self._lease(self._another(), "second") as second:
                if not isinstance(first, HandsOver) or not isinstance(second, HandsOver):
                    return
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

        self._run(check)

    @clause
    def test_a_request_for_a_record_is_withdrawn_by_its_end_and_a_free_key_is_taken_at_once(self) -> None:
        """An operator who gives up must not get the key later; and the owner may be gone before it answers."""

        async def check(registry: Registry) -> None:
            async with self._lease(registry, "first") as first, self._lease(self._another(), "second") as second:
                if not isinstance(first, HandsOver) or not isinstance(second, HandsOver):
                    return
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

        self._run(check)

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

    @clause
    def test_closing_a_lease_withdraws_its_records_alone(self) -> None:
        """A provider that stops withdraws its own records, and nothing else."""

        async def check(registry: Registry) -> None:
            await self.write("db/b", PLAIN)
            async with following(registry) as follower:
                async with self._lease(registry, "first") as first, self._lease(self._another(), "second") as second:
                    await self._call("put", first.put(backend(id="1")))
                    await self._call("put", first.put(backend(id="2")))
                    await self._call("put", second.put(backend(id="3")))
                    await follower.lists("db/b", "web/1", "web/2", "web/3")
                    await self._call("close", first.close())
                    await self._call("close", first.close())
                    await follower.lists("db/b", "web/3")
                await follower.lists("db/b")

        self._run(check)

    @clause
    def test_an_expired_lease_loses_its_records_and_its_owner_learns_of_it(self) -> None:
        """Readers give up a machine that is dead; one that was only suspended has to register again."""

        async def check(registry: Registry) -> None:
            async with following(self._another()) as follower:
                lease = await self._call("open_lease", registry.open_lease("host-1", self.ttl))
                await self._call("put", lease.put(backend()))
                await follower.lists(KEY)
                await self.expire(lease)
                await follower.lists()
                await self._lost(lease)
                with raising(LeaseLostError):
                    await self._call("put", lease.put(backend()))
                async with self._lease(registry, "host-2") as other:
                    await self._call("put", other.put(backend()))
                    await self._call("close", lease.close())
                    expect(KEY in (there := await contents(registry)), f"the record {KEY}", there)

        self._run(check)

    @clause
    def test_an_owner_learns_that_its_record_was_removed(self) -> None:
        """A record that somebody removes by mistake comes back only if its owner learns of the removal."""

        async def check(registry: Registry) -> None:
            async with self._lease(registry) as lease:
                await self._call("put", lease.put(backend()))
                waiting = [asyncio.ensure_future(lease.lost()) for _ in range(3)]
                await asyncio.sleep(0.05)
                waiting[0].cancel()  # a registrar that is asked for something else waits again later
                await self.remove(KEY)
                for each in waiting[1:]:
                    await self._call("lost, for each that waits,", each)
                await self._lost(lease)

        self._run(check)

    @clause
    def test_a_sweep_removes_what_an_earlier_run_left_and_nothing_else(self) -> None:
        """What an earlier run has registered and this run does not find is gone from the machine."""

        async def check(registry: Registry) -> None:
            await self.write("web/unowned", PLAIN)
            earlier, other = (
                await self._call("open_lease", registry.open_lease("host-1", 60)),
                await self._call("open_lease", registry.open_lease("host-2", 60)),
            )
            for id_ in ("kept", "again", "stale", "moved"):
                await self._call("put", earlier.put(backend(id=id_)))
            await self._call("put", earlier.put(backend("db", "stale")))
            await self._call("put", other.put(backend(id="others")))
            # The name of an owner may begin with the name of another owner.
            async with self._lease(self._another(), "host-11") as longer, self._lease(self._another()) as lease:
                await self._call("put", longer.put(backend(id="longer")))
                await self._call("put", lease.put(backend(id="again")))
                await self._call("put", lease.put(backend(id="new")))
                await self._call("put", longer.put(backend(id="moved"), force=True))
                equal(await self._sweep(lease, {"web/kept", "web/absent"}), {"web/stale", "db/stale"})
                stands = {f"web/{id_}" for id_ in ("unowned", "kept", "again", "moved", "others", "longer", "new")}
                equal((await contents(registry)).keys(), stands)
                async with following(registry) as follower:
                    equal(await self._sweep(lease, {"web/kept"}), frozenset())
                    equal(await self._sweep(lease, ()), {"web/kept"})
                    await follower.sees("web/kept", None)
                    equal(len(follower.deltas), 1)
            await self._call("close", earlier.close())
            await self._call("close", other.close())

        self._run(check)

    @clause
    def test_a_sweep_of_some_keys_alone_removes_no_others(self) -> None:
        """A provider sweeps the keys of its own backends, and another provider has the same owner."""

        async def check(registry: Registry) -> None:
            earlier, other = (
                await self._call("open_lease", registry.open_lease("host-1", 60)),
                await self._call("open_lease", registry.open_lease("host-2", 60)),
            )
            for id_ in ("kept", "stale", "left"):
                await self._call("put", earlier.put(backend(id=id_)))
            await self._call("put", other.put(backend(id="others")))
            async with self._lease(self._another()) as lease:
                await self._call("put", lease.put(backend(id="ours")))
                among = {f"web/{id_}" for id_ in ("kept", "stale", "others", "ours", "absent")}
                equal(await self._sweep(lease, (), ()), frozenset())  # among no keys
                equal(await self._sweep(lease, {"web/kept"}, among), {"web/stale"})
                equal((await contents(registry)).keys(), {f"web/{id_}" for id_ in ("kept", "left", "others", "ours")})
            await self._call("close", earlier.close())
            await self._call("close", other.close())

        self._run(check)

    @clause
    def test_a_lease_that_is_over_sweeps_nothing(self) -> None:
        """The loser of a lease does not know what the owner has registered now."""

        async def check(registry: Registry) -> None:
            left = await self._call("open_lease", registry.open_lease("host-1", 60))
            await self._call("put", left.put(backend()))
            lease = await self._call("open_lease", self._another().open_lease("host-1", self.ttl))
            await self.expire(lease)
            await self._lost(lease)
            with raising(LeaseLostError):
                await self._sweep(lease, ())
            expect(KEY in (there := await contents(registry)), f"the record {KEY}", there)
            await self._call("close", left.close())

        self._run(check)

    async def _lost(self, lease: Lease) -> None:
        reason: object = await self._call("lost, of a lease that has ended,", lease.lost())
        expect(isinstance(reason, str) and reason, "the reason as text", reason)

    async def _sweep(self, lease: Lease, keep: Collection[str], among: Collection[str] | None = None) -> frozenset[str]:
        return await self._call("sweep", lease.sweep(keep) if among is None else lease.sweep(keep, among))
