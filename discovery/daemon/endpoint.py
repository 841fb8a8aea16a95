"""The admin endpoint according to the settings: none, or a port that a reload replaces."""

from structlog.typing import FilteringBoundLogger

from discovery.admin.port import AdminPort
from discovery.admin.sources import Sources
from discovery.daemon.config import Settings
from discovery.errors import ConfigError


class AdminEndpoint:
    """Holds at most a single `AdminPort` at a time. For the core's loop."""

    def __init__(self, sources: Sources, log: FilteringBoundLogger) -> None:
        """Prepare; `open` begins. `sources` are those of `Admin`."""
        self._sources = sources
        self._log = log
        self._port: AdminPort | None = None

    @property
    def listens(self) -> bool:
        """True while clients can connect."""
        return self._port is not None

    async def open(self, settings: Settings) -> None:
        """Listen where `settings` say, and close the port before when the new port listens.

        Raises ConfigError, and leaves the port before as it is, if an address that was asked for cannot be had. The
        default address is given up with a warning.
        """
        port: AdminPort | None = None
        if settings.admin is not None:
            port = AdminPort(self._sources)
            try:
                await port.start(*settings.admin)
            except ConfigError as error:
                if not settings.admin_is_default:
                    raise
                self._log.warning(str(error))
                port = None
        await self.close()
        self._port = port

    async def close(self) -> None:
        """Stop listening and serving. Idempotent."""
        port, self._port = self._port, None
        if port is not None:
            await port.close()
