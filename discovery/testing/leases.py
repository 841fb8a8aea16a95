"""The part of the contract of registries that concerns leases."""

import asyncio

from discovery.codec import Record, decode, encode
from discovery.errors import LeaseLostError, OwnedByAnotherError, RecordError
from discovery.registry import Registry, TellsWhenFree
from discovery.testing.builders import backend
from discovery.testing.follower import contents, following
from discovery.testing.place import RegistryPlace
from discovery.testing.support import within

PLAIN = b"10.0.0.1:80"
KEY = backend().key


class LeaseContract(RegistryPlace):
    """Tests of who may write a record, how long a record stands, and what the owner of a lease learns."""

    def test_a_lease_writes_the_record_with_its_owner(self) -> None:
        async def check(registry: Registry) -> None:
            web = backend(labels={"zone": "a"}, weight=3)
            lease = await registry.open_lease("host-1", self.ttl)
            await lease.put(web)
            record = decode(web.key, (await contents(registry))[web.key])
            assert isinstance(record, Record)
            assert (record.backend, record.owner, record.ttl) == (web, "host-1", lease.ttl)
            assert lease.owner == "host-1"
            await lease.close()

        self._run(check)

    def test_leased_records_are_told_with_their_ttl(self) -> None:
        async def check(registry: Registry) -> None:
            await self.write("db/b", PLAIN)
            async with following(registry) as follower:
                if follower.leases is None:
                    return  # the registry reports no leases: consumers then apply every removal at once
                async with self._lease(registry) as lease:
                    await lease.put(backend())
                    await follower.lists("db/b", KEY)
                    assert follower.leases == {KEY: lease.ttl}
                    async with following(self._another()) as other:
                        assert other.leases == {KEY: lease.ttl}
                    await self.remove(KEY)
                    await self.write(KEY, PLAIN)
                    await follower.sees(KEY, PLAIN)
                    assert follower.leases == {}

        self._run(check)

    def test_a_record_outlives_its_ttl_while_its_owner_lives(self) -> None:
        async def check(registry: Registry) -> None:
            async with following(registry) as follower, self._lease(registry) as lease:
                await lease.put(backend())
                await follower.lists(KEY)
                told = len(follower.deltas)
                await asyncio.sleep(self.ttl * 1.5)
                assert follower.deltas[told:] == []

        self._run(check)

    def test_putting_the_same_again_writes_nothing(self) -> None:
        async def check(registry: Registry) -> None:
            async with following(registry) as follower, self._lease(registry) as lease:
                for _ in range(3):
                    await lease.put(backend())
                await lease.put(backend(id="last"))
                await follower.lists(KEY, "web/last")
                assert sum(KEY in delta.puts for delta in follower.deltas) == 1

        self._run(check)

    def test_a_change_and_a_delete_through_a_lease_arrive(self) -> None:
        async def check(registry: Registry) -> None:
            async with following(registry) as follower, self._lease(registry) as lease:
                for weight in (1, 2):
                    await lease.put(backend(weight=weight))
                    await follower.sees(KEY, encode(backend(weight=weight), lease.owner, lease.ttl))
                await lease.delete(backend())
                await follower.sees(KEY, None)
                await lease.delete(backend())

        self._run(check)

    def test_what_no_reader_would_accept_is_not_written(self) -> None:
        import pytest

        async def check(registry: Registry) -> None:
            async with self._lease(registry) as lease:
                with pytest.raises(RecordError):
                    await lease.put(backend(host="not a host"))
            assert await contents(registry) == {}

        self._run(check)

    def test_the_record_of_another_owner_is_left_alone(self) -> None:
        import pytest

        async def check(registry: Registry) -> None:
            async with self._lease(registry, "first") as first, self._lease(self._another(), "second") as second:
                await first.put(backend())
                before = await contents(registry)
                with pytest.raises(OwnedByAnotherError, match="first"):
                    await second.put(backend(weight=9))
                await second.delete(backend())
                assert await contents(registry) == before

        self._run(check)

    def test_a_record_without_an_owner_is_left_alone(self) -> None:
        import pytest

        async def check(registry: Registry) -> None:
            await self.write(KEY, PLAIN)
            async with self._lease(registry) as lease:
                with pytest.raises(OwnedByAnotherError):
                    await lease.put(backend())
            assert await contents(registry) == {KEY: PLAIN}

        self._run(check)

    def test_force_takes_a_record_over_and_its_owner_learns_of_it(self) -> None:
        async def check(registry: Registry) -> None:
            async with self._lease(registry, "first") as first, self._lease(self._another(), "second") as second:
                await first.put(backend())
                await second.put(backend(weight=9), force=True)
                assert await asyncio.wait_for(first.lost(), within(15))
                await first.delete(backend())
                await first.close()
                record = decode(KEY, (await contents(registry))[KEY])
                assert isinstance(record, Record)
                assert (record.owner, record.backend.weight) == ("second", 9)

        self._run(check)

    def test_a_lease_that_tells_when_a_refused_key_is_free_tells_so(self) -> None:
        """Point 4. A lease that is not `TellsWhenFree` passes: the registrar then tries again every TTL."""
        keys = {KEY, "web/other"}

        async def check(registry: Registry) -> None:
            first = await registry.open_lease("first", self.ttl)
            async with self._lease(self._another(), "second") as second, self._lease(registry, "other") as other:
                if not isinstance(second, TellsWhenFree):
                    return
                await other.put(backend(id="other"))
                for by_itself in (True, False):
                    await first.put(backend())
                    waiting = asyncio.ensure_future(second.until_free(keys))
                    await other.put(backend(id="other", weight=2))  # a write does not make a key free
                    assert not (await asyncio.wait({waiting}, timeout=0.5))[0]
                    await (first.delete(backend()) if by_itself else self.remove(KEY))
                    await asyncio.wait_for(waiting, within(15))
                    await asyncio.wait_for(second.until_free(keys), within(15))  # the key is already free
                async with self._lease(registry, "third") as third:
                    await third.put(backend(id="third"))
                    waiting = asyncio.ensure_future(second.until_free({"web/third"}))
                    await self.expire(third)
                    await asyncio.wait_for(waiting, within(15))
            await first.close()

        self._run(check)

    def test_an_owner_takes_its_own_record_over_with_a_new_lease(self) -> None:
        async def check(registry: Registry) -> None:
            old = await registry.open_lease("host-1", self.ttl)
            await old.put(backend())
            async with self._lease(self._another(), "host-1") as new:
                await new.put(backend())
                await old.close()
                assert KEY in await contents(registry)
            assert await contents(registry) == {}

        self._run(check)

    def test_closing_a_lease_withdraws_its_records_alone(self) -> None:
        async def check(registry: Registry) -> None:
            await self.write("db/b", PLAIN)
            async with following(registry) as follower:
                async with self._lease(registry, "first") as first, self._lease(self._another(), "second") as second:
                    await first.put(backend(id="1"))
                    await first.put(backend(id="2"))
                    await second.put(backend(id="3"))
                    await follower.lists("db/b", "web/1", "web/2", "web/3")
                    await first.close()
                    await first.close()
                    await follower.lists("db/b", "web/3")
                await follower.lists("db/b")

        self._run(check)

    def test_an_expired_lease_loses_its_records_and_its_owner_learns_of_it(self) -> None:
        import pytest

        async def check(registry: Registry) -> None:
            async with following(self._another()) as follower:
                lease = await registry.open_lease("host-1", self.ttl)
                await lease.put(backend())
                await follower.lists(KEY)
                await self.expire(lease)
                await follower.lists()
                assert await asyncio.wait_for(lease.lost(), within(15))
                with pytest.raises(LeaseLostError):
                    await lease.put(backend())
                async with self._lease(registry, "host-2") as other:
                    await other.put(backend())
                    await lease.close()
                    assert KEY in await contents(registry)

        self._run(check)

    def test_an_owner_learns_that_its_record_was_removed(self) -> None:
        async def check(registry: Registry) -> None:
            async with self._lease(registry) as lease:
                await lease.put(backend())
                await self.remove(KEY)
                assert await asyncio.wait_for(lease.lost(), within(15))

        self._run(check)

    def test_a_sweep_removes_what_an_earlier_run_left_and_nothing_else(self) -> None:
        async def check(registry: Registry) -> None:
            await self.write("web/unowned", PLAIN)
            earlier, other = await registry.open_lease("host-1", 60), await registry.open_lease("host-2", 60)
            for id_ in ("kept", "again", "stale", "moved"):
                await earlier.put(backend(id=id_))
            await earlier.put(backend("db", "stale"))
            await other.put(backend(id="others"))
            # The name of an owner may begin with the name of another owner.
            async with self._lease(self._another(), "host-11") as longer, self._lease(self._another()) as lease:
                await longer.put(backend(id="longer"))
                await lease.put(backend(id="again"))
                await lease.put(backend(id="new"))
                await longer.put(backend(id="moved"), force=True)
                assert await lease.sweep({"web/kept", "web/absent"}) == {"web/stale", "db/stale"}
                stands = {f"web/{id_}" for id_ in ("unowned", "kept", "again", "moved", "others", "longer", "new")}
                assert (await contents(registry)).keys() == stands
                async with following(registry) as follower:
                    assert await lease.sweep({"web/kept"}) == frozenset()
                    assert await lease.sweep(()) == {"web/kept"}
                    await follower.sees("web/kept", None)
                    assert len(follower.deltas) == 1
            await earlier.close()
            await other.close()

        self._run(check)

    def test_a_sweep_of_some_keys_alone_removes_no_others(self) -> None:
        async def check(registry: Registry) -> None:
            earlier, other = await registry.open_lease("host-1", 60), await registry.open_lease("host-2", 60)
            for id_ in ("kept", "stale", "left"):
                await earlier.put(backend(id=id_))
            await other.put(backend(id="others"))
            async with self._lease(self._another()) as lease:
                await lease.put(backend(id="ours"))
                among = {f"web/{id_}" for id_ in ("kept", "stale", "others", "ours", "absent")}
                assert await lease.sweep({"web/kept"}, among) == {"web/stale"}
                assert (await contents(registry)).keys() == {f"web/{id_}" for id_ in ("kept", "left", "others", "ours")}
            await earlier.close()
            await other.close()

        self._run(check)

    def test_a_lease_that_is_over_sweeps_nothing(self) -> None:
        import pytest

        async def check(registry: Registry) -> None:
            left = await registry.open_lease("host-1", 60)
            await left.put(backend())
            lease = await self._another().open_lease("host-1", self.ttl)
            await self.expire(lease)
            await asyncio.wait_for(lease.lost(), within(15))
            with pytest.raises(LeaseLostError):
                await lease.sweep(())
            assert KEY in await contents(registry)
            await left.close()

        self._run(check)
