"""The place in which a registry's contract is tested, and the tests' access to that place."""

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, AbstractContextManager, AsyncExitStack, asynccontextmanager
from typing import Any, TypeVar

from discovery.registry import Lease, Registry
from discovery.testing import process
from discovery.testing.builders import backend
from discovery.testing.clauses import expect
from discovery.testing.support import eventually, within
from discovery.testing.watching import limited, run_loop, waiting

CALL_SECONDS = 15.0
"""Seconds for a call of a registry, also while the registry is away: a daemon that stops waits 10 s."""
END_SECONDS = 2.0
"""Seconds for tasks of a registry that has been closed: each has been cancelled, and does nothing but end."""

PLAIN = b"10.0.0.1:80"
"""The value of a record without an owner."""
KEY = backend().key

T = TypeVar("T")


class RegistryPlace:
    """The methods that a derived class implements for a registry.

    Each test has an event loop of its own.
    """

    ttl: float = within(2.0)
    """Seconds; the shortest TTL that the registry honours, by `within`: a busy machine renews late."""

    def open(self) -> Registry:
        """Return a new connection to the registry of this test. The test closes the connection."""
        raise NotImplementedError

    async def write(self, key: str, value: bytes) -> None:
        """Store `value` under `key` (SERVICE/ID) without a lease, by another client than the registry under test."""
        raise NotImplementedError

    async def remove(self, key: str) -> None:
        """Remove the record under `key`, with any lease, by another client than the registry under test."""
        raise NotImplementedError

    async def expire(self, lease: Lease) -> None:
        """Make the lease expire, as if its owner had been suspended for longer than the TTL and then resumed."""
        raise NotImplementedError

    def cut(self) -> AbstractContextManager[object] | AbstractAsyncContextManager[object] | None:
        """Return a context in which the registry cannot be reached, for connections that are open and for new ones.

        None, the default, leaves out the tests of outages. The context is entered and left on the event loop.
        """
        return None

    @property
    def _plugin(self) -> type:
        """The class that the messages name."""
        return type(self)

    def _run(self, check: Callable[[Registry], Coroutine[Any, Any, None]]) -> None:
        async def run() -> None:
            before = asyncio.all_tasks()
            self._opened: list[Registry] = []
            try:
                await check(self._another())
            finally:
                while self._opened:
                    await self._close(self._opened[-1])

            def over() -> bool:
                left = process.other_tasks(before)
                expect(not left, "no task after the registry was closed", left)
                return True

            await eventually(over, "the tasks of the registry to end", END_SECONDS)

        run_loop(run())

    def _another(self) -> Registry:
        with limited("open() of the contract", CALL_SECONDS):
            self._opened.append(self.open())
        return self._opened[-1]

    async def _close(self, registry: Registry) -> None:
        """Close a connection, which the end of the test then need not close."""
        self._opened.remove(registry)
        await self._call("close of the registry", registry.close())

    async def _call(self, name: str, call: Awaitable[T]) -> T:
        """Await a call of the registry, for a limited time."""
        async with waiting(name, CALL_SECONDS):
            return await call

    @asynccontextmanager
    async def _lease(self, registry: Registry, owner: str = "host-1", ttl: float | None = None) -> AsyncIterator[Lease]:
        lease = await self._call("open_lease", registry.open_lease(owner, ttl or self.ttl))
        try:
            yield lease
        finally:
            await self._call("close of a lease", lease.close())

    async def _lost(self, lease: Lease) -> None:
        """Wait until the owner of a lease that has ended is told so, with a reason."""
        reason: object = await self._call("lost, of a lease that has ended,", lease.lost())
        expect(isinstance(reason, str) and reason, "the reason as text", reason)

    @asynccontextmanager
    async def _outage(self) -> AsyncIterator[None]:
        """Enter the context of `cut`, of either kind."""
        context: Any = self.cut()
        if inspect.isawaitable(context):
            context = await context
        async with AsyncExitStack() as stack:
            if hasattr(context, "__aenter__"):
                await stack.enter_async_context(context)
            else:
                stack.enter_context(context)
            yield
