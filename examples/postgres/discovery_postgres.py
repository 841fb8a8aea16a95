"""A complete provider: finds the PostgreSQL servers of this machine by their Unix sockets.

discovery run --plugin postgres --set postgres.check.type=command --set 'postgres.check.command=["pg_isready", "-q"]'
"""

import asyncio
import socket
from collections.abc import AsyncGenerator, Callable
from pathlib import Path

from pydantic import Field

from discovery import AnyProvider, Backend, Candidate, Inventory, PluginConfig, Provider, hookimpl
from discovery.addresses import primary_address
from discovery.fields import ServiceName
from discovery.probes import CheckSettings

_SOCKET = ".s.PGSQL."
"""The beginning of a socket's name; the port follows."""
_INTERVAL = 1.0
"""Seconds between two looks at the directory: a new server is found soon, and a look costs microseconds."""


class PostgresConfig(PluginConfig):
    """The options in `[providers.NAME]`."""

    service: ServiceName = Field("postgres", description="The service to register the servers for")
    address: str | None = Field(None, description="The announced address. Default: this machine's primary address")
    sockets: Path = Field(Path("/var/run/postgresql"), description="The directory of the servers' sockets")
    check: CheckSettings = Field(CheckSettings(type="tcp"), description="The check of each server")


class PostgresProvider(Provider[PostgresConfig]):
    """Yields a candidate for each socket. Each inventory is complete; the core checks and registers the candidates."""

    Config = PostgresConfig

    async def discover(self) -> AsyncGenerator[Inventory, None]:
        """Yield an inventory every second. Raises OSError if the directory cannot be read."""
        while True:
            names = [path.name for path in self.config.sockets.iterdir()]
            ports = sorted(int(suffix) for name in names if (suffix := name.removeprefix(_SOCKET)).isdecimal())
            yield self._inventory(ports)
            await asyncio.sleep(_INTERVAL)

    def _inventory(self, ports: list[int]) -> Inventory:
        host = self.config.address or primary_address(4)
        if host is None:
            reason = "this machine has no address that other machines can reach: set 'address'"
            return Inventory(problems={f"server on port {port}": reason for port in ports})
        backends = (Backend(self.config.service, f"{socket.gethostname()}:{port}", host, port) for port in ports)
        return Inventory(tuple(Candidate(backend, self.config.check.checks()) for backend in backends))


@hookimpl
def discovery_register_providers(register: Callable[[str, type[AnyProvider]], None]) -> None:
    """Offer the provider `postgres`."""
    register("postgres", PostgresProvider)
