"""The isolation of a plugin's registry: a thread and event loop of its own, so that a call that blocks is found out."""

import asyncio
import math
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Coroutine, Iterable, Sequence
from concurrent.futures import Future
from contextlib import aclosing, suppress
from typing import NamedTuple, TypeVar, cast

from discovery.errors import (
    ConfigError,
    DiscoveryError,
    PluginError,
    RecordError,
    RegistryError,
    RegistryUnavailableError,
    describe,
)
from discovery.model import Backend
from discovery.registry import (
    HandsOver,
    Lease,
    Member,
    Membership,
    Registry,
    RegistryEvent,
    RegistryFactory,
    RegistryURL,
    TellsAlarms,
    TellsMembers,
    TellsWhenFree,
)
from discovery.system.asyncio_tools import cancel_and_wait, is_being_cancelled, wait_for_event, wait_for_tasks

MAKE_SECONDS = 2.0
"""Seconds that opening waits for the factory, which does no I/O: a ConfigError is to be reported at once."""
END_SECONDS = 2.0
"""Seconds that a watch has to end. The registry is closed next, as the daemon waits no longer for that either."""
CLOSE_SECONDS = 3.0
"""Seconds that closing waits for a loop that runs nothing: nobody needs the registry any more."""
MOST_EVENTS = 100
"""Events that may wait for the core: a bound on memory, since each may be a listing."""

T = TypeVar("T")


class Patience(NamedTuple):
    """Times in seconds."""

    look: float = 1.0
    """Between two looks whether the registry's loop runs while a call is awaited."""
    blocked: float = 10.0
    """In which the registry's loop has run nothing, until the registry counts as blocked.

    A busy machine delays a loop by a second or two.
    """


PATIENCE = Patience()
"""The times unless a test gives others."""


def isolated(factory: RegistryFactory) -> RegistryFactory:
    """Return a factory whose registries run those of `factory`, each on a thread and event loop of its own.

    A ConfigError of `factory` is raised at once. After any other exception the registry is made again by the next call.
    """
    return lambda url: IsolatedRegistry.open(factory, url)


class IsolatedRegistry:
    """A registry of a plugin, isolated. For one event loop, which no call of the plugin can block.

    A watch raises what the plugin raises. Any other call raises a RegistryError, also in place of an exception that the
    protocol does not have, or a RecordError. Where the plugin blocks its own loop, that is a RegistryUnavailableError.
    See `Registry` for the methods.
    """

    def __init__(self, factory: RegistryFactory, url: RegistryURL, patience: Patience = PATIENCE) -> None:
        """Start the thread. The registry is made there, by the first call that needs it."""
        self._factory = factory
        self._patience = patience
        self._url = url
        self._registry: Registry | None = None
        self._closed = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name=f"registry-{url.scheme}", daemon=True)
        self._thread.start()

    @classmethod
    def open(cls, factory: RegistryFactory, url: RegistryURL, patience: Patience = PATIENCE) -> Registry:
        """Return the registry that `factory` makes of `url`. Raises a ConfigError of the factory."""
        registry = cls(factory, url, patience)
        making = asyncio.run_coroutine_threadsafe(_as_error(registry._made), registry._loop)
        try:
            making.result(MAKE_SECONDS)
        except ConfigError:
            registry.abandon()
            raise
        except Exception:  # noqa: BLE001 - the next call makes the registry again, and reports the reason
            making.cancel()
        return registry

    async def watch(self) -> AsyncGenerator[RegistryEvent, None]:
        """Yield the events of the plugin's watch; end when that ends, and raise what that raises."""
        loop = asyncio.get_running_loop()
        events: asyncio.Queue[RegistryEvent | None] = asyncio.Queue(MOST_EVENTS)
        ended = asyncio.Event()
        pumping = self._submit(lambda: self._pump(loop, events, ended))
        try:
            while True:
                event = await self._attend(asyncio.ensure_future(events.get()), self._patience.blocked)
                if event is None:
                    await asyncio.wrap_future(pumping)
                    return
                yield event
        finally:
            pumping.cancel()
            await wait_for_event(ended, END_SECONDS)  # a plugin may swallow the cancellation, and is then left alone

    async def open_lease(self, owner: str, ttl: float) -> Lease:
        """Open a lease. See `Registry.open_lease`."""
        lease = await self.call(lambda registry: registry.open_lease(owner, ttl))
        if lacking := _lacking(lease, ("put", "delete", "sweep", "lost", "close")):
            raise RegistryError(f"the plugin's lease is a {type(lease).__name__} without {lacking}")
        if isinstance(lease, HandsOver):
            return _HandingLease(lease, self)
        return (_TellingLease if isinstance(lease, TellsWhenFree) else _IsolatedLease)(lease, self)

    async def alarms(self) -> Sequence[str]:
        """Return the alarms of the registry: none if the plugin tells none. See `TellsAlarms.alarms`."""

        async def ask(registry: Registry) -> Sequence[str]:
            return await registry.alarms() if isinstance(registry, TellsAlarms) else ()

        return await self.call(ask)

    async def members(self) -> Membership:
        """Return the members of the registry: none if the plugin tells none. See `TellsMembers.members`."""

        async def ask(registry: Registry) -> Membership:
            return await registry.members() if isinstance(registry, TellsMembers) else Membership()

        told: object = await self.call(ask)
        if not isinstance(told, Membership) or not _is_sound(told):
            raise RegistryError(f"the plugin's registry tells {told!r} in place of its members")
        return told

    async def close(self) -> None:
        """Close the registry, and end the thread. Idempotent."""
        if self._closed:
            return
        try:
            if self._registry is not None:
                await self.call(lambda registry: registry.close(), patience=CLOSE_SECONDS)
        finally:
            self.abandon()

    async def call(self, method: Callable[[Registry], Awaitable[T]], *, patience: float | None = None) -> T:
        """Call `method` with the plugin's registry on the registry's loop.

        `patience` is how many seconds that loop may run nothing, by default those of the registry.
        """

        async def run() -> T:
            return await method(await self._made())

        waiting = asyncio.wrap_future(self._submit(run))
        try:
            return await self._attend(waiting, self._patience.blocked if patience is None else patience)
        except (RegistryError, RecordError):
            raise
        except Exception as error:
            raise RegistryError(_reason(error)) from error
        except asyncio.CancelledError:
            if is_being_cancelled():
                raise
            raise RegistryError("the registry is closed") from None  # and its loop has ended
        finally:
            waiting.cancel()

    def _submit(self, run: Callable[[], Awaitable[T]]) -> "Future[T]":
        if self._closed:
            raise RegistryError("the registry is closed")
        return asyncio.run_coroutine_threadsafe(_as_error(run), self._loop)

    async def _attend(self, waiting: "asyncio.Future[T]", patience: float) -> T:
        """Return the result of `waiting`.

        Raises RegistryUnavailableError if the registry's loop runs nothing for `patience` seconds.
        """
        silent, answered = 0.0, self._ping()
        try:
            while not await wait_for_tasks({waiting}, self._patience.look):
                silent += self._patience.look
                if answered.is_set():
                    silent, answered = 0.0, self._ping()
                elif silent >= patience:
                    raise RegistryUnavailableError(
                        f"the plugin of the registry blocks: its event loop has run nothing for {silent:.0f} s"
                    )
            return waiting.result()
        finally:
            waiting.cancel()

    def _ping(self) -> threading.Event:
        """Return an event that the registry's loop sets as soon as that loop runs."""
        answered = threading.Event()
        with suppress(RuntimeError):  # the loop has ended: what is awaited has, too
            self._loop.call_soon_threadsafe(answered.set)
        return answered

    def abandon(self) -> None:
        """End the thread without closing the registry. From any thread. Idempotent."""
        self._closed = True
        with suppress(RuntimeError):  # ended already
            self._loop.call_soon_threadsafe(self._loop.stop)

    # On the registry's thread

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            with suppress(Exception):
                left = asyncio.all_tasks(self._loop)
                self._loop.run_until_complete(cancel_and_wait(*left, timeout=END_SECONDS))
                self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.close()

    async def _made(self) -> Registry:
        """Return the plugin's registry, which is made if there is none yet. Raises what the factory raises."""
        if self._registry is None:
            made = self._factory(self._url)
            if lacking := _lacking(made, ("watch", "open_lease", "close")):
                raise PluginError(f"the plugin's registry is a {type(made).__name__} without {lacking}")
            self._registry = made
        return self._registry

    async def _pump(
        self, core: asyncio.AbstractEventLoop, events: "asyncio.Queue[RegistryEvent | None]", ended: asyncio.Event
    ) -> None:
        """Carry the events of the plugin's watch to the loop `core`; None follows the last event."""

        async def carry(event: RegistryEvent | None) -> None:
            await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(events.put(event), core))

        try:
            try:
                watch: object = (await self._made()).watch()
                if not isinstance(watch, AsyncGenerator):
                    if isinstance(watch, Coroutine):
                        watch.close()  # else there is a warning that nobody has awaited it
                    raise PluginError(f"its watch returns a {type(watch).__name__} and no asynchronous generator")
                async with aclosing(watch) as told:
                    async for event in told:
                        await carry(event)
            finally:
                if not is_being_cancelled():
                    asyncio.run_coroutine_threadsafe(events.put(None), core)
        finally:
            with suppress(RuntimeError):  # the core's loop is closed: nobody waits any more
                core.call_soon_threadsafe(ended.set)


class _IsolatedLease:
    """A lease of an isolated registry. See `Lease` for the methods."""

    def __init__(self, lease: Lease, registry: IsolatedRegistry) -> None:
        self._lease = lease
        self._registry = registry

    @property
    def owner(self) -> str:
        return self._lease.owner

    @property
    def ttl(self) -> float:
        return self._lease.ttl

    async def put(self, backend: Backend, *, force: bool = False) -> None:
        await self._registry.call(lambda _: self._lease.put(backend, force=force))

    async def delete(self, backend: Backend) -> None:
        await self._registry.call(lambda _: self._lease.delete(backend))

    async def sweep(self, keep: Collection[str], among: Collection[str] | None = None) -> frozenset[str]:
        return await self._registry.call(lambda _: self._lease.sweep(keep, among))

    async def lost(self) -> str:
        try:
            return await self._registry.call(lambda _: self._lease.lost(), patience=math.inf)
        except RegistryError as error:  # nobody knows any more whether the lease stands
            return str(error)

    async def close(self) -> None:
        await self._registry.call(lambda _: self._lease.close())


class _TellingLease(_IsolatedLease):
    async def until_free(self, keys: Collection[str]) -> None:
        lease = self._lease
        if isinstance(lease, TellsWhenFree):  # always: see `open_lease`
            await self._registry.call(lambda _: lease.until_free(keys))


class _HandingLease(_TellingLease):
    async def take_over(self, backend: Backend) -> None:
        lease = cast("HandsOver", self._lease)  # see `open_lease`
        loop, ended = asyncio.get_running_loop(), asyncio.Event()

        async def run(_: Registry) -> None:
            try:
                await lease.take_over(backend)
            finally:
                with suppress(RuntimeError):  # the core's loop is closed: nobody waits any more
                    loop.call_soon_threadsafe(ended.set)

        try:
            await self._registry.call(run)
        except asyncio.CancelledError:
            await wait_for_event(ended, END_SECONDS)  # the request is withdrawn only then
            raise

    async def handed_over(self) -> tuple[str, str]:
        lease = cast("HandsOver", self._lease)
        told: object = await self._registry.call(lambda _: lease.handed_over())
        match told:
            case (str(key), str(owner)):
                return key, owner
        raise RegistryError(f"the plugin's lease tells {told!r} in place of a key and its new owner")


def _is_sound(told: Membership) -> bool:
    """Return whether everything that a plugin tells of members has the type that the protocol says."""
    members: object = told.members
    return _is_text(told.unknown) and isinstance(members, tuple) and all(map(_is_member, members))


def _is_member(each: object) -> bool:
    if not isinstance(each, Member):
        return False
    endpoints: object = each.endpoints
    texts = (each.version, each.reason)
    flags: tuple[object, ...] = (each.votes, each.asked, each.leads)
    return (
        isinstance(endpoints, tuple)
        and all(isinstance(text, str) for text in (each.name, *endpoints))
        and all(map(_is_text, texts))
        and all(flag is None or isinstance(flag, bool) for flag in flags)
        and (each.size is None or isinstance(each.size, int))
    )


def _is_text(value: object) -> bool:
    return value is None or isinstance(value, str)


def _lacking(value: object, methods: Iterable[str]) -> str:
    """Return the names of `methods` that `value` lacks, in a line; empty if there are all of them."""
    return ", ".join(name for name in methods if not callable(getattr(value, name, None)))


async def _as_error(run: Callable[[], Awaitable[T]]) -> T:
    """Run `run`, and turn what is no Exception into an Exception, unless the task itself is being cancelled.

    SystemExit would end the loop, and a CancelledError of the plugin's own would pass for a cancellation of the caller.
    """
    try:
        return await run()
    except BaseException as error:  # on the plugin's thread, which no KeyboardInterrupt reaches
        if isinstance(error, Exception) or (isinstance(error, asyncio.CancelledError) and is_being_cancelled()):
            raise
        raise RegistryError(_reason(error)) from error


def _reason(error: BaseException) -> str:
    """Return what the plugin of a registry raises, in a line."""
    reason = describe(error)
    return reason if isinstance(error, DiscoveryError) else f"the plugin of the registry raises {reason}"
