"""A complete provider: finds the PostgreSQL servers of this machine by their Unix sockets.

discovery run --plugin postgres --set postgres.check.type=command --set 'postgres.check.command=["pg_isready", "-q"]'
"""

import asyncio
import socket
from collections.abc import AsyncGenerator, Callable
from pathlib import Path

from pydantic import Field

from discovery import AnyProvider, Backend, Candidate, Context, Inventory, PluginConfig, Provider, Validation, hookimpl
from discovery.addresses import Announced, OwnAddresses
from discovery.fields import OneOrMany, OwnAddress, ServiceName
from discovery.probes import CheckSettings

_SOCKET = ".s.PGSQL."
"""The beginning of a socket's name; the port follows."""
_NO_ADDRESS = "this machine has no address that other machines can reach: set 'address'"
_INTERVAL = 1.0
"""Seconds between two looks at the directory: a new server is found soon, and a look costs microseconds."""


class PostgresConfig(PluginConfig):
    """The options in `[providers.NAME]`."""

    service: ServiceName = Field("postgres", description="The service to register the servers for")
    address: OneOrMany[OwnAddress] = Field((), description="The announced address. Default: see docs/addresses.md")
    sockets: Path = Field(Path("/var/run/postgresql"), description="The directory of the servers' sockets")
    check: CheckSettings = Field(CheckSettings(type="tcp"), description="The check of each server")


class PostgresProvider(Provider[PostgresConfig]):
    """Yields a candidate for each socket. Each inventory is complete; the core checks and registers the candidates."""

    Config = PostgresConfig

    def __init__(self, config: PostgresConfig, context: Context) -> None:
        """Keep the arguments."""
        super().__init__(config, context)
        self._own = OwnAddresses(config.address, warn=context.log.warning)

    async def validate(self) -> Validation:
        """Tell which address would be announced. A malformed source is a fault."""
        if (malformed := self._own.malformed) is not None:
            return Validation(faults=(f"address: {malformed}",))
        try:
            return Validation(announces=tuple(map(str, await asyncio.to_thread(self._own.read))))
        except ValueError as error:
            return Validation(unchecked=(f"address: {error}",))

    async def discover(self) -> AsyncGenerator[Inventory, None]:
        """Yield an inventory every second. Raises OSError if the directory cannot be read."""
        while True:
            names = [path.name for path in self.config.sockets.iterdir()]
            ports = sorted(int(suffix) for name in names if (suffix := name.removeprefix(_SOCKET)).isdecimal())
            try:
                own = await asyncio.to_thread(self._own.read)  # blocks if the metadata of a cloud is asked
            except ValueError as error:
                yield _unreachable(ports, f"address: {error}")
            else:
                yield self._inventory(ports, own[0]) if own else _unreachable(ports, _NO_ADDRESS)
            await asyncio.sleep(_INTERVAL)

    def _inventory(self, ports: list[int], own: Announced) -> Inventory:
        service, checks, name = self.config.service, self.config.check.checks(), socket.gethostname()
        backends = (Backend(service, f"{name}:{port}", own.host, port) for port in ports)
        return Inventory(tuple(Candidate(backend, checks, own.origin) for backend in backends))


def _unreachable(ports: list[int], reason: str) -> Inventory:
    return Inventory(problems={f"server on port {port}": reason for port in ports})


@hookimpl
def discovery_register_providers(register: Callable[[str, type[AnyProvider]], None]) -> None:
    """Offer the provider `postgres`."""
    register("postgres", PostgresProvider)
