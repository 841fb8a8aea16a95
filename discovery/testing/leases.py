"""The part of the contract of registries that concerns the records of a lease and the end of a lease."""

import asyncio

from discovery.codec import Record, decode, encode
from discovery.errors import LeaseLostError, RecordError
from discovery.testing.clauses import equal, expect, raising
from discovery.testing.follower import contents, following
from discovery.testing.place import PLAIN
from discovery.testing.stage import SharedPlace, Stage, shared, shared_later

_PUTS = 10
"""Backends that are put at once: more than a connection sends in one step."""


class LeaseContract(SharedPlace):
    """Tests of the records that a lease writes, how long a record stands, and what the owner of a lease learns."""

    @shared_later
    async def test_a_lease_writes_the_record_with_its_owner(self, stage: Stage) -> None:
        """The owner decides who may change a record, and the TTL when a reader gives up a machine that is dead."""
        web = stage.backend(labels={"zone": "a"}, weight=3)
        async with stage.lease(stage.registry, ttl=self.ttl) as lease:
            await self._call("put", lease.put(web))
            record = decode(web.key, (await contents(stage.registry))[web.key])
            expect(isinstance(record, Record), "a valid record", record)
            assert isinstance(record, Record)
            equal((record.backend, record.owner, record.ttl), (web, stage.owner("host-1"), lease.ttl))
            equal(lease.owner, stage.owner("host-1"))
            ttl: object = lease.ttl
            near = isinstance(ttl, int | float) and self.ttl * 0.99 <= ttl <= self.ttl * 2 + 1
            expect(near, f"a lease of {self.ttl:g} s, as asked for", ttl)

    @shared
    async def test_leased_records_are_told_with_their_ttl(self, stage: Stage) -> None:
        """After a gap the removal of a leased record is held for its TTL; other removals count at once."""
        key, plain = stage.backend().key, stage.key("db/b")
        await stage.write(plain, PLAIN)
        async with following(stage.registry) as follower:
            if follower.leases is None:
                return  # the registry reports no leases: consumers then apply every removal at once
            async with stage.lease(stage.registry) as lease:
                await self._call("put", lease.put(stage.backend()))
                await follower.lists(plain, key)
                equal(follower.leases, {key: lease.ttl})
                async with following(stage.another) as other:
                    equal(other.leases, {key: lease.ttl})
                await stage.remove(key)
                await stage.write(key, PLAIN)
                await follower.sees(key, PLAIN)
                equal(follower.leases, {})

    @shared_later
    async def test_a_record_outlives_its_ttl_while_its_owner_lives(self, stage: Stage) -> None:
        """A lease renews itself: a record that blinks takes a living backend out of service."""
        async with following(stage.registry) as follower, stage.lease(stage.registry, ttl=self.ttl) as lease:
            await self._call("put", lease.put(stage.backend()))
            await follower.lists(stage.backend().key)
            told = len(follower.deltas)
            await asyncio.sleep(self.ttl * 1.5)
            follower.raise_end()
            equal(follower.deltas[told:], [])

    @shared
    async def test_putting_the_same_again_writes_nothing(self, stage: Stage) -> None:
        """A registrar puts all of its records after each doubt: each write is a change for every consumer."""
        web, last = stage.backend(), stage.backend(id="last")
        async with following(stage.registry) as follower:
            for each in (web, web, web, last):
                await self._call("put", stage.first.put(each))
            await follower.lists(web.key, last.key)
            equal(sum(web.key in delta.puts for delta in follower.deltas), 1)

    @shared
    async def test_a_change_and_a_delete_through_a_lease_arrive(self, stage: Stage) -> None:
        """A backend that drains changes its record, and a backend that stops is withdrawn at once."""
        key = stage.backend().key
        async with following(stage.registry) as follower, stage.lease(stage.registry) as lease:
            for weight in (1, 2):
                await self._call("put", lease.put(stage.backend(weight=weight)))
                await follower.sees(key, encode(stage.backend(weight=weight), lease.owner, lease.ttl))
            async with stage.lease(stage.another) as later:  # a daemon that was started again
                await self._call("put", later.put(stage.backend(weight=3)))
                await follower.sees(key, encode(stage.backend(weight=3), later.owner, later.ttl))
                blinks = [delta for delta in follower.deltas if key in delta.deletes]
                expect(not blinks, "a change of a record, and never its removal before", blinks)
                await self._call("delete", lease.delete(stage.backend(weight=3)))
                there = await contents(stage.registry)
                expect(key in there, "the record, which another lease holds", there)
            await self._call("put", lease.put(stage.backend(weight=2)))
            await self._call("delete", lease.delete(stage.backend()))
            await follower.sees(key, None)
            await self._call("delete", lease.delete(stage.backend()))

    @shared
    async def test_what_no_reader_would_accept_is_not_written(self, stage: Stage) -> None:
        """A record that readers reject is not used, and its writer alone can report the fault."""
        with raising(RecordError):
            await self._call("put", stage.first.put(stage.backend(host="not a host")))
        equal(await contents(stage.registry), {})

    @shared
    async def test_closing_a_lease_withdraws_its_records_alone(self, stage: Stage) -> None:
        """A provider that stops withdraws its own records, and nothing else."""
        own, others, plain = [stage.backend(id="1"), stage.backend(id="2")], stage.backend(id="3"), stage.key("db/b")
        await stage.write(plain, PLAIN)
        async with following(stage.registry) as follower, stage.lease(stage.registry) as lease:
            await self._call("puts", asyncio.gather(*(lease.put(each) for each in own), stage.second.put(others)))
            await follower.lists(plain, others.key, *(each.key for each in own))
            await self._call("close", lease.close())
            await follower.lists(plain, others.key)

    @shared_later
    async def test_an_expired_lease_loses_its_records_and_its_owner_learns_of_it(self, stage: Stage) -> None:
        """Readers give up a machine that is dead; one that was only suspended has to register again."""
        web = stage.backend()
        async with following(stage.another) as follower:
            lease = await stage.open_lease(self.ttl)
            await self._call("put", lease.put(web))
            await follower.lists(web.key)
            await stage.expire(lease)
            await follower.lists()
            await self._lost(lease)
            with raising(LeaseLostError):
                await self._call("put", lease.put(web))
            async with stage.lease(stage.registry, "host-2") as other:
                await self._call("put", other.put(web))
                await self._call("close", lease.close())
                expect(web.key in (there := await contents(stage.registry)), f"the record {web.key}", there)

    @shared_later
    async def test_an_owner_learns_that_its_record_was_removed(self, stage: Stage) -> None:
        """A record that a person removes by mistake comes back only if its owner learns of the removal."""
        async with stage.lease(stage.registry, ttl=self.ttl) as lease:
            await self._call("put", lease.put(stage.backend()))
            waiting = [stage.begin(lease.lost()) for _ in range(3)]
            await asyncio.sleep(0.05)
            waiting[0].cancel()  # a registrar that is asked for something else waits again later
            await stage.remove(stage.backend().key)
            for each in waiting[1:]:
                await self._call("lost, for each that waits,", each)
            await self._lost(lease)

    @shared
    async def test_many_puts_at_once_are_all_written(self, stage: Stage) -> None:
        """A registrar puts all of its backends at the same time."""
        many = [stage.backend(id=f"n{number}", port=8000 + number) for number in range(_PUTS)]
        async with following(stage.another) as follower:
            puts = asyncio.gather(*(stage.first.put(each) for each in many))
            await self._call(f"{_PUTS} puts at once", puts)
            await follower.lists(*(each.key for each in many))
