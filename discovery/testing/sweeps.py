"""The part of the contract of registries that concerns sweeps: an owner removes what its earlier run has left."""

from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager

from discovery.errors import LeaseLostError
from discovery.registry import Lease, Registry
from discovery.testing.builders import backend
from discovery.testing.clauses import clause, equal, expect, raising
from discovery.testing.follower import contents, following
from discovery.testing.place import KEY, PLAIN, RegistryPlace

_LONG = 60.0
"""Seconds of a lease that does not expire in a test."""


class SweepContract(RegistryPlace):
    """Tests of the records that a sweep removes, and of those that a sweep leaves."""

    @clause
    def test_a_sweep_removes_what_an_earlier_run_left_and_nothing_else(self) -> None:
        """What an earlier run has registered and this run does not find is gone from the machine."""

        async def check(registry: Registry) -> None:
            await self.write("web/unowned", PLAIN)
            async with self._earlier_runs(registry) as (earlier, other):
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

        self._run(check)

    @clause
    def test_a_sweep_of_some_keys_alone_removes_no_others(self) -> None:
        """A provider sweeps the keys of its own backends, and another provider has the same owner."""

        async def check(registry: Registry) -> None:
            async with self._earlier_runs(registry) as (earlier, other):
                for id_ in ("kept", "stale", "left"):
                    await self._call("put", earlier.put(backend(id=id_)))
                await self._call("put", other.put(backend(id="others")))
                async with self._lease(self._another()) as lease:
                    await self._call("put", lease.put(backend(id="ours")))
                    among = {f"web/{id_}" for id_ in ("kept", "stale", "others", "ours", "absent")}
                    equal(await self._sweep(lease, (), ()), frozenset())  # among no keys
                    equal(await self._sweep(lease, {"web/kept"}, among), {"web/stale"})
                    stands = {f"web/{id_}" for id_ in ("kept", "left", "others", "ours")}
                    equal((await contents(registry)).keys(), stands)

        self._run(check)

    @clause
    def test_a_lease_that_is_over_sweeps_nothing(self) -> None:
        """The loser of a lease does not know what the owner has registered now."""

        async def check(registry: Registry) -> None:
            left = await self._call("open_lease", registry.open_lease("host-1", _LONG))
            await self._call("put", left.put(backend()))
            lease = await self._call("open_lease", self._another().open_lease("host-1", self.ttl))
            await self.expire(lease)
            await self._lost(lease)
            with raising(LeaseLostError):
                await self._sweep(lease, ())
            expect(KEY in (there := await contents(registry)), f"the record {KEY}", there)
            await self._call("close", left.close())

        self._run(check)

    @asynccontextmanager
    async def _earlier_runs(self, registry: Registry) -> AsyncIterator[tuple[Lease, Lease]]:
        """Open leases of two owners, which have registered before and outlive the test."""
        async with self._lease(registry, "host-1", _LONG) as earlier, self._lease(registry, "host-2", _LONG) as other:
            yield earlier, other

    async def _sweep(self, lease: Lease, keep: Collection[str], among: Collection[str] | None = None) -> frozenset[str]:
        return await self._call("sweep", lease.sweep(keep) if among is None else lease.sweep(keep, among))
