"""Names of hosts, as probes look them up."""

import asyncio
import socket
from typing import Any, Final

from discovery.lookups import Found, Lookups

_PATIENCE: Final = 0.5
"""Seconds that a lookup has where an earlier one was answered."""
_MOST: Final = 10_000


class _Remembering:
    """Looks names up; while the name servers do not answer, the last answer stands: a backend is not down for that.

    For any number of event loops.
    """

    def __init__(self) -> None:
        self._lookups = Lookups(threads=64)
        self._last: dict[str, Found] = {}

    async def __call__(self, host: str) -> Found:
        """The family and text of each of a host's addresses. Raises OSError; a name that does not exist is one."""
        last = self._last.get(host)
        try:
            async with asyncio.timeout(None if last is None else _PATIENCE):
                found = await self._lookups(host)
        except OSError as error:  # TimeoutError is one
            if last is not None and (isinstance(error, TimeoutError) or error.errno == socket.EAI_AGAIN):
                return last
            self._last.pop(host, None)
            raise
        if last is None and len(self._last) >= _MOST:
            self._last.clear()
        self._last[host] = found
        return found


lookup = _Remembering()
"""Shared by the probes of every provider."""


class Resolver:
    """The same, as aiohttp wants it (its AbstractResolver)."""

    async def resolve(self, host: str, port: int = 0, family: int = socket.AF_UNSPEC) -> list[dict[str, Any]]:
        """Raises OSError."""
        flags = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
        return [
            {"hostname": host, "host": address, "port": port, "family": each, "proto": 0, "flags": flags}
            for each, address in await lookup(host)
            if family in (socket.AF_UNSPEC, each)
        ]

    async def close(self) -> None:
        """Nothing is held."""
