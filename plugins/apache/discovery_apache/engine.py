"""Follows a Docker engine: which containers run, and which are being stopped.

Events only say where to look: the truth is what listing and inspecting find. The engine's events are subscribed to
first, then everything is listed and inspected, from then on what an event touches, and all of it once in a while.
"""

import asyncio
import itertools
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import docker
from docker.errors import APIError, DockerException, NotFound
from structlog.typing import FilteringBoundLogger

from discovery.toolkit import delays
from discovery_apache.container import Container, parse
from discovery_apache.dockerapi import EngineError, Events, call, connect, engine_url, explain

__all__ = ["Engine", "EngineError", "View"]

_AT_ONCE = 8
"""How many containers are inspected at a time for events; half as many for a whole listing, which can wait."""
_QUIET = 5.0
"""Seconds without an event after which the engine is asked whether it is alive."""
_PING_TIMEOUT = 3.0
_CONNECT_TIMEOUT = 5.0
_PACE = 0.02
"""Seconds between two views: the first change is told at once, a burst that follows together."""
_REPLAYED = 60
"""Seconds of events that are read again at the start, to know which containers were being stopped."""
_STOP_TIMEOUT = 10
_STOP_GRACE = 20.0
"""Seconds after its stop timeout when a container that runs still has survived the signal."""
_RETRY = 1.0
"""Seconds until everything is looked at again when something could not be inspected."""
_REJOIN = 5.0
"""Seconds that a lost engine has to return, as at a restart, before it is an error."""
_REMIND = 60.0
"""Seconds until an error that has been raised is raised again; meanwhile the engine is waited for at a quick pace."""


@dataclass(frozen=True, slots=True)
class View:
    """Every container that runs (paused ones among them), by name, and the ids of those that are being stopped.

    `others` run as well, but do not count.
    """

    containers: tuple[Container, ...] = ()
    stopping: frozenset[str] = frozenset()
    others: tuple[Container, ...] = ()


class Engine:
    """One Docker engine."""

    def __init__(
        self,
        url: str | None,
        log: FilteringBoundLogger,
        *,
        match: Callable[[Container], bool] = lambda container: True,
        reconcile: float = 30.0,
    ) -> None:
        """Prepare; no I/O. Without `url`, DOCKER_HOST, else the local socket. `match` says which containers count.

        Everything is looked at again every `reconcile` seconds.
        """
        self._url = url
        self._log = log
        self._match = match
        self._reconcile = reconcile
        self._raised = ""

    async def follow(self) -> AsyncGenerator[View, None]:
        """Yield what runs: at once, and whenever it changes. Never ends by itself.

        Raises EngineError when that cannot be known; an engine that comes back within seconds is followed on.
        """
        loop = asyncio.get_running_loop()
        known = _Known(self._match)
        keeping = asyncio.create_task(self._keep(known))
        keeping.add_done_callback(lambda _: known.changed.set())
        told: View | None = None
        try:
            while not keeping.done():
                known.changed.clear()
                view, until = known.view(loop.time())
                if known.complete and view != told:
                    told = view
                    yield view
                    await asyncio.sleep(_PACE)
                else:
                    with suppress(TimeoutError):
                        async with asyncio.timeout_at(until):
                            await known.changed.wait()
            keeping.result()
        finally:
            keeping.cancel()
            await asyncio.wait([keeping])

    async def _keep(self, known: "_Known") -> None:
        """Follow the engine in one session after another, until it cannot be followed any more."""
        loop = asyncio.get_running_loop()
        url = engine_url(self._url)
        since, lost, waits = loop.time(), False, delays(0.05, 1.0)
        while True:
            session = _Session(url, known, self._reconcile, self._log)
            try:
                # A task of its own: a group whose task fails leaves its own cancelled, and the timeouts of Debian 12's
                # Python, 3.11.2, raise no TimeoutError in such a task.
                await asyncio.create_task(session.run())
            except EngineError as error:
                reason = str(error)
            if session.synced:
                self._log.warning("the Docker engine is lost, connecting again", reason=reason)
                since, lost, waits = loop.time(), True, delays(0.05, 1.0)
                self._raised = ""
            patience = _REJOIN if lost else _REMIND if reason == self._raised else 0.0
            if loop.time() - since >= patience:
                self._raised = reason
                raise EngineError(reason)
            await asyncio.sleep(next(waits))


class _Session:
    """One connection to the engine, until it is lost."""

    def __init__(self, url: str, known: "_Known", reconcile: float, log: FilteringBoundLogger) -> None:
        self._url = url
        self._known = known
        self._reconcile = reconcile
        self._log = log
        self._loop = asyncio.get_running_loop()
        self._touched: asyncio.Queue[str] = asyncio.Queue()
        self._waiting: set[str] = set()  # what is in the queue
        self._for_listing = asyncio.Semaphore(_AT_ONCE // 2)
        self._unreadable: set[str] = set()
        self._doubtful = asyncio.Event()  # something could not be inspected since everything was looked at
        self._heard = self._loop.time()
        self.synced = False

    async def run(self) -> None:
        """Keep what is known true, for as long as that can be done. Raises EngineError when it cannot."""
        try:
            await self._run()
        except* (OSError, DockerException, EngineError) as group:
            lost = explain(self._url, _first(group))
        raise lost

    async def _run(self) -> None:
        async with asyncio.timeout(_CONNECT_TIMEOUT):
            self._client, self._began = await call(connect, self._url)
        self._skew = self._loop.time() - self._began
        events = Events(self._client, self._began - _REPLAYED, self._take)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._heed(events))
                tasks.create_task(self._guard())
                tasks.create_task(self._look_again_and_again(events))
                for _ in range(_AT_ONCE):
                    tasks.create_task(self._inspect_touched())
        finally:
            events.close()
            self._client.close()

    async def _heed(self, events: Events) -> None:
        await events.ended

    async def _guard(self) -> None:
        """Notice an engine that hangs: it accepts connections, and its stream is only silent."""
        while True:
            quiet = self._loop.time() - self._heard
            if quiet >= _QUIET:
                await self._ping()
                self._heard = self._loop.time()
            else:
                await asyncio.sleep(_QUIET - quiet)

    async def _ping(self) -> None:
        async with asyncio.timeout(_PING_TIMEOUT):
            await call(self._client.ping)

    async def _look_again_and_again(self, events: Events) -> None:
        await events.opened  # what happens from here on is seen, by an event if not by looking
        while True:
            await self._look()
            self.synced = True
            with suppress(TimeoutError):
                async with asyncio.timeout(self._reconcile):
                    await self._doubtful.wait()
                    await asyncio.sleep(_RETRY)
            self._doubtful.clear()

    async def _look(self) -> None:
        """Inspect everything: what is listed, and what is known, whose absence from the list may be older than it."""
        turn = self._known.turn()
        listed = await call(self._client.containers)
        async with asyncio.TaskGroup() as tasks:
            for id_ in {str(entry["Id"]) for entry in listed} | self._known.ids:
                tasks.create_task(self._inspect_listed(id_))
        self._known.settle(turn, self._loop.time())

    async def _inspect_listed(self, id_: str) -> None:
        async with self._for_listing:
            await self._inspect(id_)

    async def _inspect_touched(self) -> None:
        while True:
            id_ = await self._touched.get()
            self._waiting.discard(id_)
            await self._inspect(id_)

    async def _inspect(self, id_: str) -> None:
        turn = self._known.turn()
        try:
            container = await call(_inspected, self._client, id_)
        except (APIError, TimeoutError) as error:
            reason = str(explain(self._url, error))
            if isinstance(error, APIError) and error.is_client_error():
                raise EngineError(reason) from None  # it would refuse every other too
            await self._ping()
            if id_ not in self._unreadable:
                self._unreadable.add(id_)
                self._log.warning("cannot inspect, what was known stands", container=id_[:12], reason=reason)
            self._doubtful.set()
        else:
            self._unreadable.discard(id_)
            self._known.found(id_, container, turn)

    def _take(self, event: Mapping[str, Any]) -> None:
        self._heard = self._loop.time()
        at = _integer(event.get("timeNano")) or _integer(event.get("time")) * 10**9
        replayed = at < self._began * 10**9
        actor = event.get("Actor") or {}
        attributes, action = actor.get("Attributes") or {}, str(event.get("Action"))
        if event.get("Type") == "network":
            id_ = str(attributes.get("container", ""))
        else:
            id_ = str(actor.get("ID", ""))
            if action == "kill":
                # Replayed or late, it began when the engine says, but never in the future.
                since = min(at / 10**9 + self._skew, self._heard)
                self._known.killed(id_, _integer(attributes.get("signal")), at, since)
                return
            if action == "die" and not replayed:
                self._known.died(id_, at)
        if id_ and not replayed and id_ not in self._waiting:
            self._waiting.add(id_)
            self._touched.put_nowait(id_)


@dataclass(frozen=True, slots=True)
class _Kill:
    """A signal that a container was sent: when on the engine's clock, in ns, and on the loop's, in seconds."""

    at: int
    since: float


class _Known:
    """The known containers of the engine, by id. Outlives the sessions."""

    def __init__(self, match: Callable[[Container], bool]) -> None:
        self.changed = asyncio.Event()
        self.complete = False
        self._match = match
        self._containers: dict[str, Container] = {}
        self._others: dict[str, Container] = {}
        self._kills: dict[str, dict[int, _Kill]] = {}
        self._turns = itertools.count(1)
        self._latest: dict[str, int] = {}

    @property
    def ids(self) -> frozenset[str]:
        """The containers that were running."""
        return frozenset((*self._containers, *self._others))

    def turn(self) -> int:
        """A number for an inspection that begins now: one that began later knows better."""
        return next(self._turns)

    def found(self, id_: str, container: Container | None, turn: int) -> None:
        """What an inspection has found, None if nothing."""
        if turn < self._latest.get(id_, 0):
            return
        self._latest[id_] = turn
        for group, belongs in ((self._containers, True), (self._others, False)):
            if container is None or not container.running or self._match(container) is not belongs:
                if group.pop(id_, None) is not None:
                    self.changed.set()
            elif container != group.get(id_):  # an equal one stays the same object: views are quick to compare
                group[id_] = container
                self.changed.set()

    def died(self, id_: str, at: int) -> None:
        """Note that a container has ended, whatever pending inspections report."""
        self._latest[id_] = self.turn()
        for group in (self._containers, self._others):
            container = group.get(id_)
            if container is not None and at >= container.started_at:
                del group[id_]
                self.changed.set()

    def killed(self, id_: str, number: int, at: int, since: float) -> None:
        """Note that a container was sent the signal `number`."""
        self._kills.setdefault(id_, {})[number] = _Kill(at, since)
        self.changed.set()

    def settle(self, turn: int, now: float) -> None:
        """Everything has been inspected, in turns from `turn` on: forget what no longer matters."""
        self._latest = {id_: latest for id_, latest in self._latest.items() if latest >= turn}
        self._kills = {
            id_: kills
            for id_, kills in self._kills.items()
            if id_ in self._containers or any(now - kill.since < _REPLAYED for kill in kills.values())
        }
        self.complete = True
        self.changed.set()

    def view(self, now: float) -> tuple[View, float | None]:
        """What there is to tell, and when that changes by itself, on the loop's clock."""
        stopping: dict[str, float] = {}
        for id_, kills in self._kills.items():
            if (container := self._containers.get(id_)) is not None:
                until = max(_until(container, kills), default=now)
                if until > now:
                    stopping[id_] = until
        view = View(_by_name(self._containers), frozenset(stopping), _by_name(self._others))
        return view, min(stopping.values(), default=None)


def _by_name(containers: Mapping[str, Container]) -> tuple[Container, ...]:
    return tuple(sorted(containers.values(), key=lambda container: (container.name, container.id)))


def _until(container: Container, kills: Mapping[int, _Kill]) -> Iterator[float]:
    """When each signal that stops it will have been survived."""
    timeout = _STOP_TIMEOUT if container.stop_timeout is None else container.stop_timeout
    for number, kill in kills.items():
        if container.stops_at(number) and kill.at >= container.started_at:
            yield kill.since + timeout + _STOP_GRACE


def _inspected(client: docker.APIClient, id_: str) -> Container | None:
    try:
        return parse(client.inspect_container(id_))
    except NotFound:
        return None


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _integer(value: object) -> int:
    try:
        return int(value) if isinstance(value, str | int) else 0
    except ValueError:
        return 0
