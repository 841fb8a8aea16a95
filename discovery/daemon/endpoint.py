"""The admin endpoint according to the settings: none, or a port that a reload replaces."""

from structlog.typing import FilteringBoundLogger

from discovery.admin.access import Access, is_loopback
from discovery.admin.port import AdminPort
from discovery.admin.sources import Sources
from discovery.daemon.settings import Settings
from discovery.errors import ConfigError


class _Held:
    """Who may ask at a port: a port that is being replaced keeps what it had."""

    def __init__(self, access: Access) -> None:
        self.access = access


class AdminEndpoint:
    """Holds at most a single `AdminPort` at a time. For the core's loop."""

    def __init__(self, sources: Sources, log: FilteringBoundLogger) -> None:
        """Prepare; `open` begins. `sources` are those of `Admin`; who may ask is the settings' to say."""
        self._sources = sources
        self._log = log
        self._port: AdminPort | None = None
        self._address: tuple[str, int] | None = None
        self._held = _Held(Access())

    @property
    def listens(self) -> bool:
        """True while clients can connect."""
        return self._port is not None

    @property
    def access(self) -> Access:
        """Who may ask, as the files said last."""
        return self._held.access

    async def open(self, settings: Settings) -> None:
        """Listen where `settings` say, and close the port before when the new port listens.

        Who may ask is as the files say now, on a port that stays, too. Raises ConfigError, and leaves the port and the
        access before as they are, if an address that was asked for cannot be had, or a file. The default address is
        given up with a warning.
        """
        access = settings.admin_access.read() if settings.admin is not None else Access()
        if settings.admin == self._address:
            self._held.access = access
            return
        held = _Held(access)
        port: AdminPort | None = None
        if settings.admin is not None:
            port = AdminPort(self._sources._replace(access=lambda: held.access))
            try:
                await port.start(*settings.admin)
            except ConfigError as error:
                if not settings.admin_is_default:
                    raise
                self._log.warning(str(error))
                port = None
        await self.close()
        self._port, self._address, self._held = port, settings.admin, held
        if port is not None and access.tls is None and settings.admin and not is_loopback(settings.admin[0]):
            self._warn_of_clear_text(settings.admin)

    async def close(self) -> None:
        """Stop listening and serving. Idempotent."""
        port, self._port, self._address = self._port, None, None
        if port is not None:
            await port.close()

    def _warn_of_clear_text(self, address: tuple[str, int]) -> None:
        self._log.warning("the admin endpoint is reached from other machines without TLS", host=address[0])
