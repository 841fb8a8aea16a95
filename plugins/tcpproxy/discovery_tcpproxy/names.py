"""The addresses of backends that have host names: looked up off the loop, and again now and then."""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress

EVERY = 30.0
"""Seconds after which an address is looked up again."""
AFTER_FAILURE = 5.0
"""The same for one that was not found, or where nobody answers."""
_AT_A_TIME = 32
_PATIENCE = 2.0
"""Seconds that whoever asks for new names waits; what takes longer is told by `changed`."""


class Names:
    """Keeps what it found while a name cannot be looked up again: an address of before is better than none."""

    def __init__(self, changed: Callable[[], None]) -> None:
        """Nothing is looked up yet; `changed` is called when `addresses` has become another without being asked."""
        self._changed = changed
        self._addresses: dict[str, str] = {}
        self._due: dict[str, float] = {}
        self._looked_up: dict[str, float] = {}
        self._lookups: dict[str, asyncio.Task[None]] = {}
        self._asking = False
        self._turns = asyncio.Semaphore(_AT_A_TIME)

    @property
    def addresses(self) -> Mapping[str, str]:
        """The IP address of each host name for which one is known."""
        return self._addresses

    async def want(self, hosts: Iterable[str]) -> None:
        """Know these host names, and forget all others. Waits a little for those that are new."""
        wanted = set(hosts)
        for host in self._due.keys() - wanted:
            del self._due[host]
            self._addresses.pop(host, None)
            self._looked_up.pop(host, None)
        new = [self._look_up(host) for host in wanted - self._due.keys()]
        if new:
            self._asking = True
            try:
                await asyncio.wait(new, timeout=_PATIENCE)
            finally:
                self._asking = False

    def refresh(self, doubted: Iterable[str] = ()) -> None:
        """Look up again what is due, the `doubted` sooner. Returns at once."""
        now = time.monotonic()
        for host in doubted:
            if host in self._looked_up:
                self._due[host] = min(self._due[host], self._looked_up[host] + AFTER_FAILURE)
        for host in [host for host, due in self._due.items() if due <= now and host not in self._lookups]:
            self._look_up(host)

    async def close(self) -> None:
        """Stop."""
        lookups = tuple(self._lookups.values())
        for each in lookups:
            each.cancel()
        await asyncio.gather(*lookups, return_exceptions=True)

    def _look_up(self, host: str) -> asyncio.Task[None]:
        self._due[host] = 0.0
        task = self._lookups.get(host)
        if task is None:
            task = self._lookups[host] = asyncio.create_task(self._find(host))
        return task

    async def _find(self, host: str) -> None:
        from discovery.probes.names import lookup  # brings aiohttp along, for which most have no use

        found: list[str] = []
        try:
            async with self._turns:
                with suppress(OSError):
                    found = [address for _, address in await lookup(host)]
        finally:
            del self._lookups[host]
        if host not in self._due:
            return  # nobody wants it any more
        self._looked_up[host] = now = time.monotonic()
        self._due[host] = now + (EVERY if found else AFTER_FAILURE)
        # Of several addresses one is kept while it is named: a rotating answer moves no traffic.
        if found and self._addresses.get(host) not in found:
            self._addresses[host] = found[0]
            if not self._asking:
                self._changed()
