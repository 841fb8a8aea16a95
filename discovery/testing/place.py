"""The place in which a registry's contract is tested, and the tests' access to that place."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from discovery.registry import Lease, Registry


class RegistryPlace:
    """The methods that a derived class implements for a registry.

    Each test has an event loop of its own.
    """

    ttl: float = 2.0
    """Seconds; the shortest TTL that the registry honours."""

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

    def _run(self, check: Callable[[Registry], Coroutine[Any, Any, None]]) -> None:
        async def run() -> None:
            self._opened: list[Registry] = []
            try:
                await check(self._another())
            finally:
                for registry in self._opened:
                    await registry.close()

        asyncio.run(run())

    def _another(self) -> Registry:
        self._opened.append(self.open())
        return self._opened[-1]

    @asynccontextmanager
    async def _lease(self, registry: Registry, owner: str = "host-1") -> AsyncIterator[Lease]:
        lease = await registry.open_lease(owner, self.ttl)
        try:
            yield lease
        finally:
            await lease.close()
