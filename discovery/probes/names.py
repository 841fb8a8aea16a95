"""Names of hosts, as probes look them up."""

import socket
from typing import Any

from discovery.lookups import Lookups

lookup = Lookups(threads=64)
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
