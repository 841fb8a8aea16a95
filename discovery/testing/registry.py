"""The contract of registries: derive from `RegistryContract`, say how to reach yours, and run pytest."""

import asyncio

from discovery.codec import MAX_VALUE
from discovery.registry import Registry
from discovery.testing.clauses import clause, equal, expect
from discovery.testing.follower import Follower, contents, following
from discovery.testing.leases import LeaseContract
from discovery.testing.outages import OutageContract
from discovery.testing.ownership import OwnershipContract
from discovery.testing.place import CALL_SECONDS, PLAIN
from discovery.testing.sweeps import SweepContract
from discovery.testing.watching import limited

_BEGINNINGS = 8
"""Watches that are begun in turn, each with a change that comes one turn of the event loop later."""


class RegistryContract(LeaseContract, OwnershipContract, SweepContract, OutageContract):
    """The behaviour that consumers and providers rely on, as pytest tests.

    A derived class implements `open`, `write`, `remove` and `expire`, and sets `ttl` where 2 s are too short. With
    `cut` the tests take the registry away. The class makes an empty place to store records in pytest's
    `setup_method(self, method)`, and removes that in `teardown_method`. Each test runs in an event loop and a thread of
    its own and calls `open` once or more. The message of a failure names the clause, with what was expected, what was
    seen, and the reason of the clause.
    """

    @clause
    def test_first_comes_a_listing_of_everything(self) -> None:
        """A consumer begins with the whole state, and has none before."""

        async def check(registry: Registry) -> None:
            await self.write("web/a", PLAIN)
            await self.write("db/b", b"10.0.0.2:5432")
            there = await contents(registry)
            equal(there, {"web/a": PLAIN, "db/b": b"10.0.0.2:5432"})
            kinds = {type(value).__name__ for value in there.values()}
            expect(kinds == {"bytes"}, "values of type bytes", kinds)

        self._run(check)

    @clause
    def test_an_empty_place_is_listed_as_empty(self) -> None:
        """ "Not synced" is the absence of a listing, so an empty place has a listing of its own."""

        async def check(registry: Registry) -> None:
            equal(await contents(registry), {})

        self._run(check)

    @clause
    def test_every_change_arrives_at_a_higher_revision(self) -> None:
        """The core shows revisions, waits for them, and takes a revision that goes back for a lost store."""

        async def check(registry: Registry) -> None:
            async with following(registry) as follower:
                revisions = [follower.revision]
                for value in (PLAIN, b"10.0.0.1:81", None, PLAIN):
                    if value is None:
                        await self.remove("web/a")
                    else:
                        await self.write("web/a", value)
                    await follower.sees("web/a", value)
                    revisions.append(follower.revision)
                equal(revisions, sorted(set(revisions)))
                changed = follower.changed_later()
                expect(not changed, "events whose records never change, since other threads keep them", changed)

        self._run(check)

    @clause
    def test_values_pass_through_as_they_are(self) -> None:
        """A record in another form is rejected with its reason, which needs the bytes that are there."""

        async def check(registry: Registry) -> None:
            async with following(registry) as follower:
                # The last value is the shortest value that is too long for a valid record.
                for value in (b"\xff\x00\n\"'#${}", b"{", "ключ".encode(), b"x" * (MAX_VALUE + 1)):
                    await self.write("web/odd", value)
                    await follower.sees("web/odd", value)

        self._run(check)

    @clause
    def test_two_watches_agree_and_one_may_end(self) -> None:
        """Two daemons at the same revision serve the same backends."""

        async def check(registry: Registry) -> None:
            async with following(registry) as one:
                async with following(self._another()) as two:
                    for port in range(8000, 8020):
                        await self.write(f"web/{port % 3}", f"10.0.0.1:{port}".encode())
                    final = {f"web/{port % 3}": f"10.0.0.1:{port}".encode() for port in range(8000, 8020)}
                    await one.shows(final)
                    await two.shows(final)
                    for revision in one.states.keys() & two.states.keys():
                        equal(one.states[revision], two.states[revision])
                    equal(one.revision, two.revision)
                async with following(registry) as same:  # on the same connection
                    await same.shows(final)
                await self.remove("web/0")
                await one.sees("web/0", None)

        self._run(check)

    @clause
    def test_what_changes_while_a_watch_begins_is_told(self) -> None:
        """A listing and the watch after it leave no gap: what is written in between is told by one of them."""

        async def check(registry: Registry) -> None:
            expected: dict[str, bytes] = {}
            for turns in range(_BEGINNINGS):
                beginning = Follower(registry)
                beginning.task = asyncio.create_task(beginning.run())
                try:
                    for _ in range(turns):
                        await asyncio.sleep(0)
                    expected[f"web/n{turns}"] = PLAIN
                    await self.write(f"web/n{turns}", PLAIN)
                    await beginning.shows(expected)
                finally:
                    beginning.task.cancel()
                    with limited("a watch, after it was cancelled,", CALL_SECONDS):
                        await asyncio.wait({beginning.task})

        self._run(check)

    @clause
    def test_what_a_watch_adds_up_to_is_what_is_there(self) -> None:
        """A change that is lost is never repeated: the watch alone tells a daemon what is registered."""
        from hypothesis import HealthCheck, Phase, given, settings
        from hypothesis import strategies as st

        keys = st.sampled_from(["a/1", "a/2", "b/1", "b/2"])
        values = st.one_of(st.none(), st.integers(1, 9).map(lambda n: f"10.0.0.{n}:80".encode()))

        # Without a search for a smaller example, for which each attempt would wait for a change that never comes.
        phases = (Phase.explicit, Phase.reuse, Phase.generate)

        @settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck), phases=phases)
        @given(st.lists(st.tuples(keys, values), max_size=20))
        def check(operations: list[tuple[str, bytes | None]]) -> None:
            async def operate(registry: Registry) -> None:
                async with following(registry) as follower:
                    expected = dict(follower.records or {})
                    for key, value in operations:
                        if value is not None:
                            await self.write(key, value)
                            expected[key] = value
                        elif expected.pop(key, None) is not None:
                            await self.remove(key)
                    await follower.shows(expected)
                    equal(await contents(self._another()), expected)

            self._run(operate)

        check()
