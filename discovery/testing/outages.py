"""The part of the contract of registries that concerns outages, watches and connections."""

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from contextlib import suppress
from itertools import pairwise
from typing import Any

from discovery.errors import LeaseLostError, RegistryUnavailableError
from discovery.registry import Delta, Member, Membership, Registry, Reset, Stale, TellsAlarms, TellsMembers
from discovery.testing.builders import backend
from discovery.testing.clauses import clause, equal, expect, raising
from discovery.testing.follower import Follower, cancelled, contents, following
from discovery.testing.place import CALL_SECONDS, KEY, PLAIN, RegistryPlace
from discovery.testing.process import Holdings
from discovery.testing.stage import SharedPlace, Stage, shared
from discovery.testing.watching import limited

OUTAGE_SECONDS = 30.0
"""Seconds until a watch tells that its registry is away, or back: a member that hangs is noticed by its silence."""
_MORE_SECONDS = 0.3
"""Seconds for which an outage goes on after it was told, for a registry that tells the outage again and again."""
_MOMENT = 0.05
"""Seconds for a lease to notice an outage by itself."""
_CHANGES = 30
"""Changes that a slow reader has not read yet."""


class OutageContract(SharedPlace):
    """Tests of what a watch and a lease do while the registry is away, and of their ends."""

    @clause
    def test_an_outage_is_told_and_nothing_is_taken_away(self) -> None:
        """A registry that is away says nothing about its records: an empty listing would end every service."""

        async def check(registry: Registry) -> None:
            if not self._can_be_cut():
                return
            await self.write("web/a", PLAIN)
            async with following(registry) as follower:
                for _ in range(2):
                    listings, told, revision = len(follower.resets), len(follower.stales), follower.revision
                    async with self._outage():
                        await follower.until(
                            lambda: follower.stale, "a Stale while the registry is away", OUTAGE_SECONDS
                        )
                        await asyncio.sleep(_MORE_SECONDS)
                        follower.raise_end()
                        empty = [each for each in follower.resets[listings:] if not each.records]
                        expect(not empty, "no empty Reset while the registry is away", empty)
                        equal(follower.records, {"web/a": PLAIN})
                        reasons: list[Any] = follower.stales[told:]
                        expect(all(isinstance(each, str) and each for each in reasons), "a reason as text", reasons)
                        expect(len(reasons) == len(set(reasons)), "a Stale for each new reason", reasons)
                    await self._recovers(follower)
                    equal(follower.records, {"web/a": PLAIN})
                    expect(follower.revision >= revision, f"a revision of at least {revision}", follower.revision)
                    others = [each for each in follower.resets[listings:] if each.another]
                    expect(not others, "the same history as before, since no record was lost", others)
                await self.write("web/b", PLAIN)
                await follower.sees("web/b", PLAIN)
                await self.remove("web/a")
                await follower.sees("web/a", None)

        self._run(check)

    @clause
    def test_what_changes_in_an_outage_is_told_after_it(self) -> None:
        """A registry that follows from now on, and lists nothing, has lost what others have changed meanwhile.

        A place whose `write` and `remove` do nothing in an outage passes.
        """

        async def check(registry: Registry) -> None:
            if not self._can_be_cut():
                return
            for id_ in ("stays", "goes"):
                await self.write(f"web/{id_}", PLAIN)
            async with following(registry) as follower:
                changed = False
                try:
                    async with self._outage():
                        await follower.until(
                            lambda: follower.stale, "a Stale while the registry is away", OUTAGE_SECONDS
                        )
                        with suppress(Exception):  # the author's code, which may need the registry
                            await self.write("web/comes", PLAIN)
                            await self.remove("web/goes")
                            changed = True
                except AssertionError:
                    raise
                except Exception:  # noqa: BLE001 - the author's code: the place and the change exclude each other
                    return
                if changed and set(there := await contents(self._another())) == {"web/stays", "web/comes"}:
                    await follower.shows(there)

        self._run(check)

    @clause
    def test_a_watch_that_begins_in_an_outage_waits_for_its_end(self) -> None:
        """A daemon that starts in an outage serves its last snapshot, and follows as soon as the registry is back."""

        async def check(registry: Registry) -> None:
            if not self._can_be_cut():
                return
            await self.write("web/a", PLAIN)
            follower = Follower(self._another())
            async with self._outage():
                follower.task = asyncio.create_task(follower.run())
                try:
                    await follower.until(lambda: follower.stale, "a Stale as the first event", OUTAGE_SECONDS)
                    expect(follower.records is None, "no listing while the registry is away", follower.records)
                except BaseException:  # also a cancellation: the task does not outlive the clause
                    follower.task.cancel()
                    raise
            try:
                await follower.until(lambda: follower.records is not None, "a Reset after the outage", OUTAGE_SECONDS)
                equal(follower.records, {"web/a": PLAIN})
            finally:
                await cancelled(follower.task)

        self._run(check)

    @clause
    def test_a_lease_tells_that_the_registry_is_away(self) -> None:
        """A registrar tells RegistryUnavailableError and tries again; a call that hangs or succeeds tells nothing."""

        async def check(registry: Registry) -> None:
            if not self._can_be_cut():
                return
            lease = await self._call("open_lease", registry.open_lease("host-1", 60))
            await self._call("put", lease.put(backend()))
            closing = await self._call("open_lease", self._another().open_lease("host-2", 60))
            lost, begun = asyncio.ensure_future(lease.lost()), asyncio.get_running_loop().time()
            async with self._outage():
                calls: Mapping[str, Awaitable[object]] = {
                    "put": lease.put(backend(weight=2)),
                    "delete": lease.delete(backend()),
                    "sweep": lease.sweep({KEY}),
                    "open_lease": registry.open_lease("host-3", 60),
                }
                await asyncio.gather(*(self._is_refused(name, call) for name, call in calls.items()))
                await self._away("close of a lease", closing.close())
                other = self._another()
                await self._away("close of the registry", other.close())
                await asyncio.sleep(_MOMENT)
                short = asyncio.get_running_loop().time() - begun < lease.ttl / 2
                expect(not (short and lost.done()), "a lease that outlives an outage shorter than its TTL", lost)
            lost.cancel()
            await asyncio.wait({lost})

            async def puts() -> bool:
                with suppress(RegistryUnavailableError):
                    await self._call("put, after an outage,", lease.put(backend(weight=3)))
                    return True
                return False

            with suppress(LeaseLostError):  # a store that was away for long has ended the lease
                async with asyncio.timeout(OUTAGE_SECONDS):
                    while not await puts():  # noqa: ASYNC110 - the registry tells nobody when it is back
                        await asyncio.sleep(0.1)
                there = await contents(self._another())
                expect(b'"weight":3' in there.get(KEY, b"").replace(b" ", b""), "the record of the last put", there)
            await self._call("close of a lease", lease.close())

        self._run(check)

    @clause
    def test_a_slow_reader_misses_nothing(self) -> None:
        """A consumer may be busy while changes arrive: each revision is still told, in order."""

        async def check(registry: Registry) -> None:
            events = registry.watch()
            first = await self._call("the first event of a watch", anext(events))
            while isinstance(first, Stale):
                first = await self._call("the first listing of a watch", anext(events))
            expect(isinstance(first, Reset), "a Reset as the first listing", first)
            expected = {f"web/{number}": f"10.0.0.1:{8000 + number}".encode() for number in range(_CHANGES)}
            for key, value in expected.items():
                await self.write(key, value)
            state, revision = dict(first.records) if isinstance(first, Reset) else {}, -1
            while state != expected:
                name = f"the next event of a watch, with {len(state)} of {_CHANGES} records,"
                event = await self._call(name, anext(events))
                if isinstance(event, Reset):
                    state, revision = dict(event.records), event.revision
                elif isinstance(event, Delta):
                    expect(event.revision >= revision, "revisions in order", f"{event.revision} after {revision}")
                    state = {key: value for key, value in state.items() if key not in event.deletes} | dict(event.puts)
                    revision = event.revision
            await self._call("aclose of a watch", events.aclose())

        self._run(check)

    @clause
    def test_a_watch_ends_when_it_is_closed_or_cancelled(self) -> None:
        """A daemon stops, or follows another registry: a watch that goes on keeps its connection and tasks."""

        async def check(registry: Registry) -> None:
            for _ in range(2):
                events = registry.watch()
                await self._call("the first event of a watch", anext(events))
                with limited("aclose of a watch", CALL_SECONDS):
                    await events.aclose()
            never = registry.watch()
            with limited("aclose of a watch that has not begun", CALL_SECONDS):
                await never.aclose()
            async with following(self._another()) as other:
                follower = Follower(registry)
                task = asyncio.create_task(follower.run())
                follower.task = task
                await follower.until(lambda: follower.records is not None, "the first listing")
                await cancelled(task)
                ended = "returned" if task.done() and not task.cancelled() and task.exception() is None else ""
                if not task.cancelled() and task.exception() is not None:
                    ended = repr(task.exception())
                expect(task.cancelled(), "CancelledError from a watch that is cancelled", ended)
                await self.write("web/a", PLAIN)
                await other.sees("web/a", PLAIN)

        self._run(check)

    @clause
    def test_watches_leave_nothing_behind(self) -> None:
        """A daemon begins another watch after each doubt, for months."""

        async def check(registry: Registry) -> None:
            counts = []
            for _ in range(5):
                events = registry.watch()
                await self._call("the first event of a watch", anext(events))
                await events.aclose()
                await asyncio.sleep(0.02)
                counts.append({**Holdings.now().counts, "tasks": len(asyncio.all_tasks())})
            for kind in counts[0]:
                grown = [count[kind] for count in counts[1:]]
                grows = all(one < other for one, other in pairwise(grown))
                expect(not grows, f"as many {kind} after each watch", grown)

        self._run(check)

    @clause
    def test_connections_and_leases_leave_nothing_behind(self) -> None:
        """A daemon opens another lease after each doubt, and another registry at each reload, for months."""

        async def check(registry: Registry) -> None:
            counts = []
            for _ in range(4):
                other = self._another()
                lease = await self._call("open_lease", other.open_lease("host-1", self.ttl))
                await self._call("put", lease.put(backend()))
                await self._call("close of a lease", lease.close())
                await self._close(other)
                await asyncio.sleep(0.02)
                counts.append({**Holdings.now().counts, "tasks": len(asyncio.all_tasks())})
            for kind in counts[0]:
                grown = [count[kind] for count in counts]
                grows = all(one < other for one, other in pairwise(grown))
                expect(not grows, f"as many {kind} after each lease and each connection", grown)

        self._run(check)

    @clause
    def test_a_connection_may_be_closed_twice_and_leaves_the_records(self) -> None:
        """A daemon that is replaced closes its connection, and its successor takes the records over."""

        async def check(registry: Registry) -> None:
            other = self._another()
            lease = await self._call("open_lease", other.open_lease("host-1", 60))
            await self._call("put", lease.put(backend()))
            lost = asyncio.ensure_future(lease.lost())
            await asyncio.sleep(0.05)
            expect(not lost.done(), "lost to wait while the lease is alive", lost)
            lost.cancel()
            await asyncio.wait({lost})
            await self._call("close of the registry", other.close())
            await self._close(other)
            there = await contents(registry)
            expect(KEY in there, f"the record {KEY} after its connection was closed", there)

        self._run(check)

    @shared
    async def test_a_listing_tells_the_same_history_to_all(self, stage: Stage) -> None:
        """A restarted reader takes another history for a store that was emptied, and holds what is missing."""
        async with following(stage.registry) as one:
            key = stage.key("web/a")
            await stage.write(key, PLAIN)
            await one.sees(key, PLAIN)
            async with following(stage.another) as two:
                first, second = one.resets[0].history, two.resets[0].history
                known = (first is None) == (second is None)
                expect(known, "a history in each listing, or in none", f"{first} and {second}")
                if first is not None and second is not None:
                    equal(second.store, first.store)
                    expect(second.term >= first.term, "a term that never decreases", f"{first}, then {second}")

    @clause
    def test_keys_pass_through_as_they_are(self) -> None:
        """A key is service and id: another form of the same key is another backend."""

        async def check(registry: Registry) -> None:
            keys = ["web/a@b", "web/[::1]:80", "web/A", "_web.x-1/10.0.0.1:80", "w/" + "x" * 200]
            for key in keys:
                await self.write(key, PLAIN)
            equal(await contents(registry), dict.fromkeys(keys, PLAIN))

        self._run(check)

    @shared
    async def test_alarms_are_lines(self, stage: Stage) -> None:
        """`/healthz` shows each alarm, with the remedy. A registry that is not `TellsAlarms` passes."""
        registry = self._opened[0]
        if isinstance(registry, TellsAlarms):
            alarms: object = await self._call("alarms", registry.alarms())
            is_lines = isinstance(alarms, Sequence) and not isinstance(alarms, str)
            expect(is_lines and all(isinstance(each, str) for each in alarms), "a sequence of texts", alarms)  # type: ignore[attr-defined]

    @shared
    async def test_members_are_told(self, stage: Stage) -> None:
        """The live page shows the members. A registry that is not `TellsMembers` passes."""
        registry = self._opened[0]
        if isinstance(registry, TellsMembers):
            told: object = await self._call("members", registry.members())
            expect(isinstance(told, Membership), "a Membership", told)
            members: object = told.members  # type: ignore[attr-defined]
            is_sequence = isinstance(members, Sequence) and not isinstance(members, str)
            expect(is_sequence and all(isinstance(each, Member) for each in members), "Members", members)  # type: ignore[attr-defined]

    def _can_be_cut(self) -> bool:
        return type(self).cut is not RegistryPlace.cut

    async def _recovers(self, follower: Follower) -> None:
        await follower.until(lambda: follower.stale is None, "an event that ends the Stale", OUTAGE_SECONDS)

    async def _is_refused(self, name: str, call: Awaitable[object]) -> None:
        with raising(RegistryUnavailableError):
            await self._away(name, call)

    async def _away(self, name: str, call: Awaitable[object]) -> object:
        with limited(f"{name}, while the registry is away,", OUTAGE_SECONDS):
            return await call
