"""The contract of registries: derive from `RegistryContract`, say how to reach yours, and run pytest."""

import asyncio
import random

from discovery.codec import MAX_VALUE
from discovery.registry import Registry
from discovery.testing.clauses import clause, equal, expect
from discovery.testing.follower import Follower, cancelled, contents, following
from discovery.testing.leases import LeaseContract
from discovery.testing.outages import OutageContract
from discovery.testing.ownership import OwnershipContract
from discovery.testing.place import PLAIN
from discovery.testing.stage import Stage, shared
from discovery.testing.sweeps import SweepContract

_BEGINNINGS = 6
"""Watches that are begun in turn, each with a change that comes one turn of the event loop later."""
_BURSTS, _BURST = 5, 12
"""Bursts of changes at random, the same in each run, and the changes in each: most of them overtake a reader."""
_WRITES = 0.6
"""The share of writes in the changes of records that are there, so that values change as often as records go."""


class RegistryContract(LeaseContract, OwnershipContract, SweepContract, OutageContract):
    """The behaviour that consumers and providers rely on, as pytest tests.

    A derived class implements `open`, `write`, `remove` and `expire`, and sets `ttl` where 2 s are too short. With
    `cut` the tests take the registry away. The class makes an empty place to store records in pytest's
    `setup_method(self, method)`, and removes that in `teardown_method`. Each test runs in an event loop and a thread of
    its own and calls `open` once or more. Most clauses share one life, in the place of the first of their tests: they
    play at once, each with keys and owners of its own, so that the whole takes less than 20 s of a slow registry, too.
    The message of a failure names the clause, with what was expected, what was seen, and the reason of the clause.
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

    @shared
    async def test_what_changes_while_a_watch_begins_is_told(self, stage: Stage) -> None:
        """A listing and the watch after it leave no gap: what is written in between is told by one of them."""
        expected: dict[str, bytes] = {}
        for turns in range(_BEGINNINGS):
            key, beginning = stage.key(f"web/n{turns}"), Follower(stage.registry)
            beginning.task = asyncio.create_task(beginning.run())
            try:
                for _ in range(turns):
                    await asyncio.sleep(0)
                expected[key] = PLAIN
                await stage.write(key, PLAIN)
                await beginning.shows(expected)
            finally:
                await cancelled(beginning.task)

    @shared
    async def test_what_a_watch_adds_up_to_is_what_is_there(self, stage: Stage) -> None:
        """A change that is lost is never repeated: the watch alone tells a daemon what is registered."""
        chance, keys = random.Random(1), [stage.key(key) for key in ("a/1", "a/2", "b/1", "b/2")]  # noqa: S311 - no secret
        expected: dict[str, bytes] = {}
        async with following(stage.registry) as follower:
            for _ in range(_BURSTS):
                for _ in range(_BURST):
                    key = chance.choice(keys)
                    if key not in expected or chance.random() < _WRITES:
                        expected[key] = f"10.0.0.{chance.randrange(1, 10)}:80".encode()
                        await stage.write(key, expected[key])
                    else:
                        del expected[key]
                        await stage.remove(key)
                await follower.shows(expected)
                equal(await contents(stage.another), expected)
