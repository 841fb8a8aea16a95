"""Follows a Docker engine: the running containers, and those that are being stopped.

Events only say which container to inspect; the state is what a listing and inspections report. A session subscribes to
the engine's events first, then lists and inspects all containers, from then on inspects each container of an event, and
lists all containers again at intervals.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import replace
from typing import Any

from structlog.typing import FilteringBoundLogger

from discovery.toolkit import cancel_and_wait, delays, wait_for_event
from discovery_docker import events
from discovery_docker.container import Container, parse, parse_image_names
from discovery_docker.dockerapi import Events, call, connect, explain, identity
from discovery_docker.patience import PATIENCE, Patience
from discovery_docker.podman import Podman
from discovery_docker.sdk import APIError, DockerException, NotFound, docker
from discovery_docker.sockets import EngineError, Found, find_engine
from discovery_docker.swarm import Services
from discovery_docker.table import REPLAY_WINDOW, ContainerTable, EngineState

__all__ = ["Engine", "EngineError", "EngineState"]

_CONCURRENT_INSPECTIONS = 8
"""Inspections at a time for events; half as many for a listing, which is less urgent. dockerd has other clients."""
_MIN_STATE_INTERVAL = 0.02
"""Seconds between two states: the first change is reported at once, a burst of later changes as one."""
_RETRY_DELAY = 1.0
"""Seconds until the next listing after a failed inspection."""
_RECONNECT_DELAYS = (0.05, 1.0)
"""Seconds from a lost connection to the next attempt: at first, and at most. The engine is on this machine, or near."""
_PROBE_SETTLES = 0.5
"""Seconds after the end of a program in a container until Podman has its result, if it was the health check."""
_ERROR_REPEAT_INTERVAL = 60.0
"""Seconds until the same error is raised again; meanwhile the engine is tried at short intervals."""


class Engine:
    """A Docker engine. All methods run on one event loop."""

    def __init__(
        self,
        url: str | None,
        log: FilteringBoundLogger,
        *,
        match: Callable[[Container], bool] = lambda container: True,
        reconcile: float = 30.0,
        identify: bool = False,
        patience: Patience = PATIENCE,
        find: Callable[[str | None], Found] = find_engine,
    ) -> None:
        """Keep the arguments; no I/O.

        `url` defaults to DOCKER_HOST, or else a local socket, see `discovery_docker.sockets`. `match` returns True for
        the containers of interest. `reconcile` is the interval in seconds between two listings of all containers. With
        `identify` the engine is asked who it is. `patience` has the time limits for the engine.
        `find` finds the engine, until one was reached.
        """
        self._url = url
        self._log = log
        self._match = match
        self._reconcile = reconcile
        self._identify = identify
        self._patience = patience
        self._find = find
        self._reached: str | None = None
        self._raised = ""

    async def follow(self) -> AsyncGenerator[EngineState, None]:
        """Yield the state at once and after every change. Never ends by itself.

        Raises EngineError if the state cannot be read. An engine that returns within seconds is not an error.
        """
        loop = asyncio.get_running_loop()
        table = ContainerTable(self._match, self._patience)
        sessions = asyncio.create_task(self._run_sessions(table))
        sessions.add_done_callback(lambda _: table.changed.set())
        last: EngineState | None = None
        try:
            while not sessions.done():
                table.changed.clear()
                state, expires_at = table.state(loop.time())
                if table.complete and state != last:
                    last = state
                    yield state
                    await asyncio.sleep(_MIN_STATE_INTERVAL)
                else:
                    await wait_for_event(table.changed, None if expires_at is None else expires_at - loop.time())
            sessions.result()
        finally:
            await cancel_and_wait(sessions)

    async def _run_sessions(self, table: ContainerTable) -> None:
        """Keep the table up to date in consecutive sessions. Raises EngineError."""
        loop = asyncio.get_running_loop()
        url: str | None = None
        since, was_synced, waits = loop.time(), False, delays(*_RECONNECT_DELAYS)
        while True:
            session = None
            try:
                # Another engine never takes the place of one that was reached, and is away.
                url = self._reached or self._look(url)
                session = _Session(url, table, self._patience, self._reconcile, self._identify, self._log)
                # In a task of its own: a task group whose task fails leaves its own task cancelled, and the timeouts of
                # Debian 12's Python, 3.11.2, raise no TimeoutError in a cancelled task.
                await asyncio.create_task(session.run())
            except EngineError as error:
                reason = str(error)
            if session is not None and session.synced:
                self._reached = url
                self._log.warning("the connection to the Docker engine is lost, connecting again", reason=reason)
                since, was_synced, waits = loop.time(), True, delays(*_RECONNECT_DELAYS)
                self._raised = ""
            repeat_after = _ERROR_REPEAT_INTERVAL if reason == self._raised else 0.0
            patience = self._patience.reconnect if was_synced else repeat_after
            if loop.time() - since >= patience:
                self._raised = reason
                raise EngineError(reason)
            await asyncio.sleep(next(waits))

    def _look(self, before: str | None) -> str:
        """Return the URL of the engine. Log a new choice among several. Raises EngineError."""
        url, others = self._find(self._url)
        if others and url != before:
            self._log.info("of several engines one is followed; 'url' names another", url=url, others=others)
        return url


class _Session:
    """A connection to the engine, until the connection is lost."""

    def __init__(
        self,
        url: str,
        table: ContainerTable,
        patience: Patience,
        reconcile: float,
        identify: bool,
        log: FilteringBoundLogger,
    ) -> None:
        self._url = url
        self._patience = patience
        self._identify = identify
        self._table = table
        self._interval = reconcile
        self._log = log
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[str] = asyncio.Queue()
        self._queued: set[str] = set()  # the ids in the queue
        self._listing_slots = asyncio.Semaphore(_CONCURRENT_INSPECTIONS // 2)
        self._unreadable: set[str] = set()
        self._incomplete = asyncio.Event()  # an inspection has failed since the last listing
        self._began = self._last_event = self._loop.time()
        self.synced = False

    async def run(self) -> None:
        """Keep the table up to date until the connection is lost. Raises EngineError."""
        try:
            await self._run()
        except* (OSError, DockerException, EngineError) as group:
            lost = explain(self._url, _first_leaf(group))
        raise lost

    async def _run(self) -> None:
        async with asyncio.timeout(self._patience.connect):
            self._client, self._engine_time, is_podman = await call(self._patience.answer, connect, self._url)
        self._clock_offset = self._loop.time() - self._engine_time
        if self._identify:
            self._table.info = await call(self._patience.answer, identity, self._client)
        self._podman = Podman(self._client, self._patience.answer) if is_podman else None
        self._services = Services(self._table.service_labels, self._client)
        filters = events.filters(is_podman=is_podman)
        stream = Events(self._client, self._engine_time - REPLAY_WINDOW, filters, self._handle_event)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._await_end(stream))
                tasks.create_task(self._ping_when_quiet())
                tasks.create_task(self._reconcile_repeatedly(stream))
                for _ in range(_CONCURRENT_INSPECTIONS):
                    tasks.create_task(self._inspect_queued())
        finally:
            stream.close()
            self._client.close()

    async def _await_end(self, stream: Events) -> None:
        await stream.ended

    async def _ping_when_quiet(self) -> None:
        """Ping a quiet engine: an engine that hangs accepts connections, and its stream of events is merely silent."""
        while True:
            quiet = self._loop.time() - self._last_event
            if quiet >= self._patience.quiet:
                await self._ping()
                self._last_event = self._loop.time()
            else:
                await asyncio.sleep(self._patience.quiet - quiet)

    async def _ping(self) -> None:
        async with asyncio.timeout(self._patience.ping):
            await call(self._patience.answer, self._client.ping)

    async def _reconcile_repeatedly(self, stream: Events) -> None:
        await stream.opened  # from here on an event reports each change that a listing misses
        while True:
            await self._list_and_inspect()
            self.synced = True
            if await wait_for_event(self._incomplete, self._interval):
                await asyncio.sleep(_RETRY_DELAY)
            self._incomplete.clear()

    async def _list_and_inspect(self) -> None:
        """Inspect all listed containers, and all containers of the table: one may have started after the listing."""
        self._services.expire(self._table.services)
        sequence = self._table.next_sequence()
        listed = await call(self._patience.answer, self._client.containers)
        async with asyncio.TaskGroup() as tasks:
            for id_ in {str(entry["Id"]) for entry in listed} | self._table.ids:
                tasks.create_task(self._inspect_listed(id_))
        # A container that cannot be inspected has no state yet to stand: the first listing is repeated for a while.
        now = self._loop.time()
        if self._table.complete or not self._unreadable or now - self._began >= self._patience.first:
            self._table.finish_listing(sequence, now)
        self._tell_refusal()

    def _tell_refusal(self) -> None:
        if self._services.refusal is not None and not self._table.refusal_told:
            self._table.refusal_told = True
            self._log.warning(
                "the labels of Swarm's services are not read, only those of their containers: follow a manager, or give"
                " labels by --container-label",
                url=self._url,
                reason=self._services.refusal,
            )

    async def _inspect_listed(self, id_: str) -> None:
        async with self._listing_slots:
            await self._inspect(id_)

    async def _inspect_queued(self) -> None:
        while True:
            id_ = await self._queue.get()
            self._queued.discard(id_)
            await self._inspect(id_)

    async def _inspect(self, id_: str) -> None:
        sequence = self._table.next_sequence()
        try:
            container = await call(
                self._patience.answer, _inspect_container, self._client, self._podman, self._services, id_
            )
        except (APIError, TimeoutError) as error:
            reason = str(explain(self._url, error))
            if isinstance(error, APIError) and error.is_client_error():
                raise EngineError(reason) from None  # the engine would refuse every other inspection, too
            await self._ping()
            if id_ not in self._unreadable:
                self._unreadable.add(id_)
                self._log.warning("cannot inspect a container, its state stands", container=id_[:12], reason=reason)
            self._incomplete.set()
        else:
            self._unreadable.discard(id_)
            self._table.update(id_, container, sequence)

    def _handle_event(self, event: Mapping[str, Any]) -> None:
        self._last_event = self._loop.time()
        notice = events.read(event)
        if notice is None:
            return
        if notice.kind == "signalled":
            # A replayed or late signal was sent at the engine's timestamp, but never in the future.
            since = min(notice.at / 10**9 + self._clock_offset, self._last_event)
            self._table.add_signal(notice.id, notice.signal, notice.at, since)
        elif notice.kind == "service":
            self._services.changed(notice.id)
            for task in self._table.tasks(notice.id):
                self._enqueue(task)
        elif notice.at >= self._engine_time * 10**9:  # what is replayed, the listing has
            if notice.kind == "probed":
                if self._table.has_health(notice.id):
                    self._loop.call_later(_PROBE_SETTLES, self._enqueue, notice.id)
                return
            if notice.kind == "ended":
                self._table.remove(notice.id, notice.at)
            self._enqueue(notice.id)

    def _enqueue(self, id_: str) -> None:
        """Have the container inspected, once for all events that come before it is."""
        if id_ not in self._queued:
            self._queued.add(id_)
            self._queue.put_nowait(id_)


def _inspect_container(
    client: docker.APIClient, podman: Podman | None, services: Services, id_: str
) -> Container | None:
    try:
        container = parse(client.inspect_container(id_))
    except NotFound:
        return None
    if podman is not None and container.running:
        container = podman.complete(container)
    if container.running:
        container = services.complete(container)
    if not container.is_image_named_by_id:
        return container
    try:
        return replace(container, image_names=parse_image_names(client.inspect_image(container.image_id)))
    except APIError as error:
        # An engine may refuse to tell, as one behind a proxy of its API does: the image then has no names.
        if not error.is_client_error():
            raise
        return container


def _first_leaf(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
