"""The part of the contract of registries that concerns sweeps: an owner removes what its earlier run has left."""

import asyncio
from collections.abc import Collection

from discovery.errors import LeaseLostError
from discovery.registry import Lease
from discovery.testing.clauses import equal, expect, raising
from discovery.testing.follower import contents, following
from discovery.testing.place import PLAIN
from discovery.testing.stage import SharedPlace, Stage, shared, shared_later


class SweepContract(SharedPlace):
    """Tests of the records that a sweep removes, and of those that a sweep leaves."""

    @shared
    async def test_a_sweep_removes_what_an_earlier_run_left_and_nothing_else(self, stage: Stage) -> None:
        """What an earlier run has registered and this run does not find is gone from the machine."""
        db = stage.backend("db", "stale")
        await stage.write(stage.key("web/unowned"), PLAIN)
        # The name of an owner may begin with the name of another owner.
        async with (
            stage.lease(stage.registry) as earlier,
            stage.lease(stage.another, "host-11") as longer,
            stage.lease(stage.another) as lease,
        ):
            await self._call("put", earlier.put(db))
            await self._put(stage, earlier, "kept", "again", "stale", "moved")
            await self._put(stage, stage.second, "others")
            await self._put(stage, longer, "longer")
            await self._put(stage, lease, "again", "new")
            await self._call("put", longer.put(stage.backend(id="moved"), force=True))
            equal(await self._sweep(lease, stage.keys("kept", "absent")), {stage.key("web/stale"), db.key})
            stands = stage.keys("unowned", "kept", "again", "moved", "others", "longer", "new")
            async with following(stage.registry) as follower:
                equal((follower.records or {}).keys(), stands)
                equal(await self._sweep(lease, stage.keys("kept")), frozenset())
                equal(await self._sweep(lease, ()), stage.keys("kept"))
                await follower.sees(stage.key("web/kept"), None)
                equal(len(follower.deltas), 1)

    @shared
    async def test_a_sweep_of_some_keys_alone_removes_no_others(self, stage: Stage) -> None:
        """A provider sweeps the keys of its own backends, and another provider has the same owner."""
        async with stage.lease(stage.registry) as earlier, stage.lease(stage.another) as lease:
            await self._put(stage, earlier, "kept", "stale", "left")
            await self._put(stage, stage.second, "others")
            await self._put(stage, lease, "ours")
            equal(await self._sweep(lease, (), ()), frozenset())  # among no keys
            among = stage.keys("kept", "stale", "others", "ours", "absent")
            equal(await self._sweep(lease, stage.keys("kept"), among), stage.keys("stale"))
            equal((await contents(stage.registry)).keys(), stage.keys("kept", "left", "others", "ours"))

    @shared_later
    async def test_a_lease_that_is_over_sweeps_nothing(self, stage: Stage) -> None:
        """The loser of a lease does not know what the owner has registered now."""
        key = stage.backend().key
        async with stage.lease(stage.registry) as left, stage.lease(stage.another, ttl=self.ttl) as lease:
            await self._call("put", left.put(stage.backend()))
            await stage.expire(lease)
            await self._lost(lease)
            with raising(LeaseLostError):
                await self._sweep(lease, ())
            expect(key in (there := await contents(stage.registry)), f"the record {key}", there)

    async def _put(self, stage: Stage, lease: Lease, *ids: str) -> None:
        """Put backends of the clause at once."""
        await self._call("put", asyncio.gather(*(lease.put(stage.backend(id=id_)) for id_ in ids)))

    async def _sweep(self, lease: Lease, keep: Collection[str], among: Collection[str] | None = None) -> frozenset[str]:
        return await self._call("sweep", lease.sweep(keep) if among is None else lease.sweep(keep, among))
