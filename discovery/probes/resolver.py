"""The adapter by which aiohttp looks host names up with a `Lookup`."""

import socket
from typing import Any

from discovery.system.lookups import Lookup


class Resolver:
    """Adapts a lookup to aiohttp's AbstractResolver."""

    def __init__(self, lookup: Lookup) -> None:
        """Look names up by `lookup`."""
        self._lookup = lookup

    async def resolve(self, host: str, port: int = 0, family: int = socket.AF_UNSPEC) -> list[dict[str, Any]]:
        """Return the addresses of `host` in aiohttp's form. Raises OSError."""
        flags = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
        return [
            {"hostname": host, "host": address, "port": port, "family": each, "proto": 0, "flags": flags}
            for each, address in await self._lookup(host)
            if family in (socket.AF_UNSPEC, each)
        ]

    async def close(self) -> None:
        """Do nothing: the resolver has no resources."""
