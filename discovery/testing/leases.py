"""The part of the contract of registries that concerns the records of a lease and the end of a lease."""

import asyncio

from discovery.codec import Record, decode, encode
from discovery.errors import LeaseLostError, RecordError
from discovery.registry import Registry
from discovery.testing.builders import backend
from discovery.testing.clauses import clause, equal, expect, raising
from discovery.testing.follower import contents, following
from discovery.testing.place import KEY, PLAIN, RegistryPlace


class LeaseContract(RegistryPlace):
    """Tests of the records that a lease writes, how long a record stands, and what the owner of a lease learns."""

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
        """A record that readers reject is not used, and its writer alone can report the fault."""

        async def check(registry: Registry) -> None:
            async with self._lease(registry) as lease:
                with raising(RecordError):
                    await self._call("put", lease.put(backend(host="not a host")))
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
        """A record that a person removes by mistake comes back only if its owner learns of the removal."""

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
