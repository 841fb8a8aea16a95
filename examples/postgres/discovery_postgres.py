"""A whole provider: finds the PostgreSQL servers of this machine by their sockets, has them checked, registers them.

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


class PostgresConfig(PluginConfig):
    """The options in `[providers.NAME]`."""

    service: ServiceName = Field("postgres", description="The service that the servers are registered for")
    address: str | None = Field(None, description="What is announced. Default: this machine's primary address")
    sockets: Path = Field(Path("/var/run/postgresql"), description="Where the servers have their sockets")
    check: CheckSettings = Field(CheckSettings(type="tcp"), description="How each server is checked")


class PostgresProvider(Provider[PostgresConfig]):
    """Finds a candidate for each socket. Level-triggered: yields what there is, and the core does the rest."""

    Config = PostgresConfig

    async def discover(self) -> AsyncGenerator[Inventory, None]:
        """Look every second; an equal inventory costs nothing. A directory that cannot be read raises."""
        while True:
            names = [path.name for path in self.config.sockets.iterdir()]
            ports = sorted(int(suffix) for name in names if (suffix := name.removeprefix(_SOCKET)).isdecimal())
            yield self._inventory(ports)
            await asyncio.sleep(1.0)

    def _inventory(self, ports: list[int]) -> Inventory:
        host = self.config.address or primary_address(4)
        if host is None:
            reason = "this machine has no address that others can reach: set 'address'"
            return Inventory(problems={f"server on port {port}": reason for port in ports})
        backends = (Backend(self.config.service, f"{socket.gethostname()}:{port}", host, port) for port in ports)
        return Inventory(tuple(Candidate(backend, self.config.check.checks()) for backend in backends))


@hookimpl
def discovery_register_providers(register: Callable[[str, type[AnyProvider]], None]) -> None:
    """Offer the provider `postgres`."""
    register("postgres", PostgresProvider)
