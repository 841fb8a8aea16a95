"""The address of the admin endpoint, which listens from the start; the server is loaded when a first client has come.

The libraries of the server take longer to load than everything that the first apply needs, and a third of the memory.
"""

import asyncio
import importlib
import socket
from typing import TYPE_CHECKING

import structlog

from discovery.admin.access import AccessSettings, check_exposure
from discovery.admin.sources import Sources
from discovery.errors import ConfigError, describe
from discovery.model import join_host_port
from discovery.system.asyncio_tools import cancel_and_wait
from discovery.system.listenerrors import listen_error_reason

if TYPE_CHECKING:
    from discovery.admin.server import Admin

_BACKLOG = 1024
"""Clients that wait until they are accepted, as far as `net.core.somaxconn` lets: many may connect in one instant."""
_AGAIN = 1.0
"""Seconds after which loading the server is tried again."""

_log = structlog.get_logger("discovery.admin.server")


class AdminPort:
    """The listening socket of the admin endpoint; `Admin` is loaded for the first client. For one event loop."""

    def __init__(self, sources: Sources) -> None:
        """Prepare. `sources` are those of `Admin`."""
        self._sources = sources
        self._host = ""
        self._listening: list[socket.socket] = []
        self._serving: asyncio.Task[None] | None = None
        self._admin: Admin | None = None

    async def start(self, host: str, port: int) -> None:
        """Listen. Raises ConfigError, naming the address and the way out, if that cannot be."""
        loop = asyncio.get_running_loop()
        self._host = host
        try:
            addresses = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            for family, address in dict.fromkeys((each[0], each[4]) for each in addresses):
                self._listening.append(socket.create_server(address[:2], family=family, backlog=_BACKLOG))
            self._check_exposure()
        except ConfigError:
            await self.close()
            raise
        except OSError as error:
            await self.close()
            bind = join_host_port(host, port)
            reason = listen_error_reason(bind, error)
            raise ConfigError(
                f"the admin endpoint cannot listen on {bind}: {reason}; --admin takes an address, or off"
            ) from None
        for listening in self._listening:
            listening.setblocking(False)
            loop.add_reader(listening, self._on_client)

    async def close(self) -> None:
        """Stop listening, and serving. Idempotent."""
        if self._serving is not None:
            await cancel_and_wait(self._serving)
        elif self._listening:
            self._unwatch()
        if self._admin is not None:
            await self._admin.close()
        for listening in self._listening:
            listening.close()
        self._listening = []

    def _check_exposure(self) -> None:
        """Raise ConfigError if others could reach us, and may ask: the name to listen on may be that of any address."""
        if self._sources.access().is_open:
            check_exposure((each.getsockname()[0] for each in self._listening), AccessSettings())

    def _on_client(self) -> None:
        self._unwatch()
        self._serving = asyncio.create_task(self._serve())

    async def _serve(self) -> None:
        while True:
            try:
                # On a thread: applies are not to wait for it.
                module = await asyncio.to_thread(importlib.import_module, "discovery.admin.server")
                self._admin = admin = module.Admin(self._sources)
                await admin.start(self._listening, self._host)
            except Exception as error:  # noqa: BLE001 - no descriptor is free, or the files are being replaced
                _log.error("the admin endpoint cannot be served, trying again", reason=describe(error))
                await asyncio.sleep(_AGAIN)
            else:
                return

    def _unwatch(self) -> None:
        for listening in self._listening:
            asyncio.get_running_loop().remove_reader(listening)
