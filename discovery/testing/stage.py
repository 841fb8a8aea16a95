"""A life of a registry that clauses of its contract share: they play at once, each with keys and owners of its own."""

import asyncio
import functools
import os
import weakref
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import replace
from typing import Any, TypeVar

from discovery.model import Backend
from discovery.registry import Delta, Lease, Registry, RegistryEvent, Reset
from discovery.system.asyncio_tools import cancel_and_wait, is_being_cancelled
from discovery.testing.builders import backend
from discovery.testing.clauses import clause
from discovery.testing.place import END_SECONDS, RegistryPlace

LONG = 60.0
"""Seconds of a lease that does not expire in a test, also on a busy machine."""

V = TypeVar("V")
Outcomes = dict[tuple[str, str], BaseException | None]

_outcomes: "weakref.WeakKeyDictionary[type, Outcomes]" = weakref.WeakKeyDictionary()
"""What each clause has raised that no test has told yet, by the parameters of the test and the name of the clause."""


class Stage:
    """The share of one clause in a life: connections and leases are shared, keys and owners belong to the clause."""

    def __init__(self, life: "_Life", number: int) -> None:
        """Create the share of the clause `number` in `life`."""
        self._life, self._end = life, f"-{number}"
        self.registry: Registry = _Share(life.connections[0], self._end)
        """A connection that tells the clause's records alone."""
        self.another: Registry = _Share(life.connections[1], self._end)
        """Another connection that does so."""
        self.first, self.second = life.leases
        """Leases of the owners "first", on `registry`, and "second", on `another`. They stay, with a long TTL."""
        self.begun: list[asyncio.Future[Any]] = []
        """What `begin` has begun, which is cancelled at the end of the clause."""

    def backend(self, service: str = "web", id: str | None = None, **fields: Any) -> Backend:  # noqa: A002 - its name
        """Return a backend of the clause's own `service`. `id` and `fields` are those of `builders.backend`."""
        return backend(service + self._end, id, **fields)

    def key(self, key: str) -> str:
        """Return the clause's own form of `key`, which is SERVICE/ID."""
        service, _, id_ = key.partition("/")
        return f"{service}{self._end}/{id_}"

    def owner(self, owner: str) -> str:
        """Return the clause's own form of the name `owner`, with which that name ends."""
        return f"{self._end[1:]}-{owner}"

    def keys(self, *ids: str) -> set[str]:
        """Return the keys of the clause's service "web" with these `ids`."""
        return {self.key(f"web/{id_}") for id_ in ids}

    async def open_lease(self, ttl: float = LONG) -> Lease:
        """Open a lease of the clause's owner "host-1" on `registry`, which the clause closes or loses."""
        opening = self.registry.open_lease(self.owner("host-1"), ttl)
        return await self._life.place._call("open_lease", opening)  # noqa: SLF001 - its own place

    def lease(self, registry: Registry, owner: str = "host-1", ttl: float = LONG) -> AbstractAsyncContextManager[Lease]:
        """Open a lease on `registry` for a block, of the clause's own `owner`.

        Only a clause that `shared_later` decorates has a short TTL.
        """
        return self._life.place._lease(registry, self.owner(owner), ttl)  # noqa: SLF001 - its own place

    async def write(self, key: str, value: bytes) -> None:
        """Store `value` under the clause's `key` as another client. The author's methods run one at a time."""
        async with self._life.author:
            await self._life.place.write(key, value)

    async def remove(self, key: str) -> None:
        """Remove the record under the clause's `key` as another client."""
        async with self._life.author:
            await self._life.place.remove(key)

    def begin(self, call: Awaitable[V]) -> "asyncio.Future[V]":
        """Begin a call that waits, and that ends with the clause at the latest."""
        begun = asyncio.ensure_future(call)
        self.begun.append(begun)
        return begun

    async def expire(self, lease: Lease) -> None:
        """Make a lease of the clause expire, once at most in a clause.

        Leases expire when all other clauses have ended, and no clause goes on before all are expired: what the author
        does may touch other leases of this process.
        """
        await self._life.expire(self._end, lease)


P = TypeVar("P", bound="SharedPlace")
Play = Callable[[P, Stage], Coroutine[Any, Any, None]]


class SharedPlace(RegistryPlace):
    """A place in which the clauses that `shared` decorates are played at once, in the first test of one of them."""

    def _play_all(self, asked: Mapping[str, Play[Any]]) -> dict[str, BaseException | None]:
        """Play every shared clause, and those `asked` for. Return what each has raised, by name."""
        found = {name: getattr(getattr(type(self), name), "play", None) for name in dir(type(self))}
        plays = {**{name: play for name, play in found.items() if play is not None}, **asked}
        outcomes: dict[str, BaseException | None] = {}

        async def live(registry: Registry) -> None:
            async with self._lease(registry, "first", LONG) as first:
                another = self._another()
                async with self._lease(another, "second", LONG) as second:
                    await _Life(self, (registry, another), (first, second)).run(plays, outcomes)

        try:
            self._run(live)
        except Exception as error:  # noqa: BLE001 - raised again by each clause that has no error of its own
            return {name: outcomes.get(name) or error for name in plays}
        return outcomes


def shared(play: Play[P]) -> Callable[[P], None]:
    """Decorate a clause that needs no life of its own: a coroutine method that gets its `Stage`.

    The result is a test method. The first test of a class plays all of the shared clauses, each test tells the outcome
    of its own clause, and a test that is run again plays again.
    """

    @functools.wraps(play)
    def test(self: P) -> None:
        outcomes, parameters = _outcomes.setdefault(type(self), {}), _parameters()
        if (parameters, play.__name__) not in outcomes:
            told = self._play_all({play.__name__: play})
            outcomes.update({(parameters, name): error for name, error in told.items()})
        if (error := outcomes.pop((parameters, play.__name__))) is not None:
            raise error

    del test.__wrapped__  # pytest takes the parameters of a wrapped function for fixtures
    decorated = clause(test)
    decorated.play = play  # type: ignore[attr-defined]
    return decorated


def shared_later(play: Play[P]) -> Callable[[P], None]:
    """Decorate as `shared` does a clause whose leases have a short TTL, of which others might delay a renewal.

    These clauses play when the others have ended, so that a busy machine delays no renewal either.
    """
    play.is_late = True  # type: ignore[attr-defined]
    return shared(play)


class _Life:
    """Connections and leases that all clauses share, and the order in which the clauses play."""

    def __init__(
        self, place: RegistryPlace, connections: tuple[Registry, Registry], leases: tuple[Lease, Lease]
    ) -> None:
        self.place, self.connections, self.leases = place, connections, leases
        self.author = asyncio.Lock()
        """Held for each call of a method of the author, who need not expect others meanwhile."""
        self._playing: set[str] = set()
        self._expiring: set[str] = set()
        self._all_played, self._all_expired = asyncio.Event(), asyncio.Event()

    async def run(self, plays: Mapping[str, Play[Any]], outcomes: dict[str, BaseException | None]) -> None:
        """Play each of `plays`, and note in `outcomes` what it raises."""
        stages = {name: Stage(self, number) for number, name in enumerate(plays)}
        self._playing = {stage._end for stage in stages.values()}  # noqa: SLF001 - its own stage
        for is_late in (False, True):
            async with asyncio.TaskGroup() as group:
                for name, play in plays.items():
                    if getattr(play, "is_late", False) is is_late:
                        group.create_task(self._play(play, stages[name], name, outcomes))

    async def _play(self, play: Play[Any], stage: Stage, name: str, outcomes: dict[str, BaseException | None]) -> None:
        try:
            try:
                await play(self.place, stage)
            finally:
                await cancel_and_wait(*stage.begun, timeout=END_SECONDS)
            outcomes[name] = None
        except BaseException as error:  # a plugin may raise anything; raised again by its test
            if isinstance(error, asyncio.CancelledError) and is_being_cancelled():
                raise
            outcomes[name] = error
        finally:
            self._has_played(stage._end)  # noqa: SLF001 - its own stage

    async def expire(self, end: str, lease: Lease) -> None:
        """Make `lease` of the clause `end` expire, see `Stage.expire`."""
        self._expiring.add(end)
        self._has_played(end)
        await self._all_played.wait()
        try:
            async with self.author:
                await self.place.expire(lease)
        finally:
            self._expiring.discard(end)
            if not self._expiring:
                self._all_expired.set()
        await self._all_expired.wait()

    def _has_played(self, end: str) -> None:
        self._playing.discard(end)
        if not self._playing:
            self._all_played.set()


class _Share:
    """A connection whose watches tell the records of those services alone whose names end in `end`."""

    def __init__(self, registry: Registry, end: str) -> None:
        self._registry, self._end = registry, end

    async def watch(self) -> AsyncGenerator[RegistryEvent, None]:
        async with aclosing(self._registry.watch()) as events:
            async for event in events:
                if isinstance(event, Reset):
                    yield replace(event, records=self._own(event.records), leases=self._own(event.leases))
                elif isinstance(event, Delta):
                    puts, deletes = self._own(event.puts), frozenset(self._own(dict.fromkeys(event.deletes)))
                    if puts or deletes:
                        yield replace(event, puts=puts, deletes=deletes, leases=self._own(event.leases))
                else:
                    yield event

    async def open_lease(self, owner: str, ttl: float) -> Lease:
        return await self._registry.open_lease(owner, ttl)

    async def close(self) -> None:
        await self._registry.close()

    def _own(self, records: Any) -> Any:
        """Return the part of a mapping whose keys are the clause's, or None for None."""
        if records is None:
            return None
        return {key: value for key, value in records.items() if key.partition("/")[0].endswith(self._end)}


def _parameters() -> str:
    """Return the parameters of the running pytest test, which may stand for different places."""
    return os.environ.get("PYTEST_CURRENT_TEST", "").partition("[")[2]
