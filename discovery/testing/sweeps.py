"""The part of the contract of registries that concerns sweeps: an owner removes what its earlier run has left."""

import asyncio
from collections.abc import Collection

from discovery.errors import LeaseLostError
from discovery.model import Backend
from discovery.registry import Lease
from discovery.testing.clauses import equal, expect, raising
from discovery.testing.follower import contents, following
from discovery.testing.place import PLAIN
from discovery.testing.stage import LONG, SharedPlace, Stage, shared


class SweepContract(SharedPlace):
    """Tests of the records that a sweep removes, and of those that a sweep leaves."""

    @shared
    async def test_a_sweep_removes_what_an_earlier_run_left_and_nothing_else(self, stage: Stage) -> None:
        """What an earlier run has registered and this run does not find is gone from the machine."""
        ids = ("unowned", "kept", "again", "stale", "moved", "others", "longer", "new", "absent")
        webs = {id_: stage.backend(id=id_) for id_ in ids}

        def keys(*ids: str) -> set[str]:
            return {webs[id_].key for id_ in ids}

        db = stage.backend("db", "stale")
        await stage.write(webs["unowned"].key, PLAIN)
        # The name of an owner may begin with the name of another owner.
        async with (
            stage.lease(stage.registry, ttl=LONG) as earlier,
            stage.lease(stage.another, "host-11") as longer,
            stage.lease(stage.another) as lease,
        ):
            await self._put_all(earlier, *(webs[id_] for id_ in ("kept", "again", "stale", "moved")), db)
            await self._put_all(stage.second, webs["others"])
            await self._put_all(longer, webs["longer"])
            await self._put_all(lease, webs["again"], webs["new"])
            await self._call("put", longer.put(webs["moved"], force=True))
            equal(await self._sweep(lease, keys("kept", "absent")), {webs["stale"].key, db.key})
            stands = keys("unowned", "kept", "again", "moved", "others", "longer", "new")
            async with following(stage.registry) as follower:
                equal((follower.records or {}).keys(), stands)
                equal(await self._sweep(lease, keys("kept")), frozenset())
                equal(await self._sweep(lease, ()), keys("kept"))
                await follower.sees(webs["kept"].key, None)
                equal(len(follower.deltas), 1)

    @shared
    async def test_a_sweep_of_some_keys_alone_removes_no_others(self, stage: Stage) -> None:
        """A provider sweeps the keys of its own backends, and another provider has the same owner."""
        webs = {id_: stage.backend(id=id_) for id_ in ("kept", "stale", "left", "others", "ours", "absent")}

        def keys(*ids: str) -> set[str]:
            return {webs[id_].key for id_ in ids}

        async with stage.lease(stage.registry, ttl=LONG) as earlier, stage.lease(stage.another) as lease:
            await self._put_all(earlier, *(webs[id_] for id_ in ("kept", "stale", "left")))
            await self._put_all(stage.second, webs["others"])
            await self._put_all(lease, webs["ours"])
            equal(await self._sweep(lease, (), ()), frozenset())  # among no keys
            among = keys("kept", "stale", "others", "ours", "absent")
            equal(await self._sweep(lease, keys("kept"), among), keys("stale"))
            equal((await contents(stage.registry)).keys(), keys("kept", "left", "others", "ours"))

    @shared
    async def test_a_lease_that_is_over_sweeps_nothing(self, stage: Stage) -> None:
        """The loser of a lease does not know what the owner has registered now."""
        key = stage.backend().key
        async with stage.lease(stage.registry, ttl=LONG) as left, stage.lease(stage.another) as lease:
            await self._call("put", left.put(stage.backend()))
            await stage.expire(lease)
            await self._lost(lease)
            with raising(LeaseLostError):
                await self._sweep(lease, ())
            expect(key in (there := await contents(stage.registry)), f"the record {key}", there)

    async def _put_all(self, lease: Lease, *backends: Backend) -> None:
        await self._call("puts at once", asyncio.gather(*(lease.put(each) for each in backends)))

    async def _sweep(self, lease: Lease, keep: Collection[str], among: Collection[str] | None = None) -> frozenset[str]:
        return await self._call("sweep", lease.sweep(keep) if among is None else lease.sweep(keep, among))
