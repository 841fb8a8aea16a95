"""The fleet as this daemon sees it: announces the daemon, if it is to be, and asks the others when somebody looks."""

import asyncio
import json
import socket
import time
from collections.abc import Callable, Collection
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from structlog.typing import FilteringBoundLogger

from discovery.addresses import OwnAddresses, announced_address
from discovery.admin.status import DaemonStatus
from discovery.daemon.endpoint import AdminEndpoint
from discovery.daemon.settings import Settings
from discovery.errors import ConfigError
from discovery.fleet.announcement import Announcement, id_of, time_text
from discovery.fleet.answer import answer_of
from discovery.fleet.asking import Answered, Asking
from discovery.fleet.fleetdocument import fleet_document, member_document
from discovery.fleet.place import fleet_url
from discovery.fleet.survey import Survey, Surveyed
from discovery.hosting import loading as plugins
from discovery.model import Snapshot, join_host_port
from discovery.registry import Registry
from discovery.system.asyncio_tools import on_thread, wait_for_tasks
from discovery.system.lookups import RememberedLookups
from discovery.system.owners import DefaultOwner

if TYPE_CHECKING:
    from discovery.fleet.announcer import Announcer

ASK_SECONDS = 3.0
"""Seconds that another daemon has to answer, its host name's lookup included."""
_CLOSE_SECONDS = 2.0
"""Seconds in which the registry closes its connections."""
_LOOKUP_THREADS = 8
"""Threads on which the host names of daemons are looked up."""


class FleetLink:
    """The fleet, for the admin endpoint and the registry. For the core's loop."""

    def __init__(
        self,
        socket_path: Path,
        log: FilteringBoundLogger,
        status: Callable[[], DaemonStatus],
        endpoint: Callable[[], AdminEndpoint],
    ) -> None:
        """Prepare; `use` begins. `socket_path` and `endpoint` are the daemon's own."""
        self._path = socket_path
        self._log = log
        self._status = status
        self._endpoint = endpoint
        self._since = time_text(time.time())
        self._settings: Settings | None = None
        self._registry: Registry | None = None
        self._announcer: Announcer | None = None
        self._survey: Survey | None = None
        self._reason: str | None = None
        self._lookup = RememberedLookups(_LOOKUP_THREADS)

    @property
    def hosts(self) -> Collection[str]:
        """The host under which others are told to ask this daemon."""
        announced = self._announcer.announced if self._announcer is not None else None
        return () if announced is None else (announced.host,)

    async def use(self, settings: Settings) -> None:
        """Be announced, or not, and ask others as the settings say, from now on."""
        before, self._settings = self._settings, settings
        self._survey = None  # certificates may be others
        if before is not None and _what_matters(before) == _what_matters(settings):
            if self._announcer is not None:
                self._announcer.look()  # the roles may be others
            return
        await self.close()
        if not settings.fleet.announce:
            return
        if settings.admin is None:  # as of an ambassador, which reads the file of the machine's daemon
            self._log.info("this daemon is not announced: it has no admin endpoint")
            return
        if not self._endpoint().listens:
            self._log.warning("this daemon is not announced: its admin endpoint does not listen")
            return
        from discovery.fleet.announcer import Announcer  # here: it imports the registrar, which few daemons need

        owner = self._owner(settings)
        self._announcer = Announcer(self._opened(settings), owner, self._announcement, self._log)
        self._announcer.start()

    async def close(self, *, keep: bool = False) -> None:
        """Withdraw the announcement, or `keep` it for a successor, and close the registry. Idempotent."""
        announcer, self._announcer = self._announcer, None
        registry, self._registry = self._registry, None
        self._survey = None
        if announcer is not None:
            await announcer.stop(keep=keep)
        if registry is not None:
            await wait_for_tasks([asyncio.ensure_future(registry.close())], _CLOSE_SECONDS)

    async def document(self) -> dict[str, Any]:
        """Return the fleet as JSON: see `fleet_document`."""
        settings = self._used
        try:
            surveyed = await self._surveyor(settings).survey()
        except ConfigError as error:
            surveyed = Surveyed(reason=str(error), at=time.monotonic())
        return fleet_document(surveyed, self._id(settings), announced=self._not_announced(settings))

    def own_document(self) -> dict[str, Any]:
        """Return what this daemon tells others of itself."""
        return member_document(self._status(), self._id(self._used), _version())

    @property
    def _used(self) -> Settings:
        if self._settings is None:
            raise RuntimeError("nobody is asked before `use`")
        return self._settings

    def _opened(self, settings: Settings) -> Registry:
        if self._registry is None:
            self._registry = plugins.open_registry(fleet_url(settings.registry, settings.fleet.prefix))
        return self._registry

    def _surveyor(self, settings: Settings) -> Survey:
        if self._survey is None:
            registry = self._opened(settings)

            async def read(seconds: float) -> Snapshot:
                from discovery.daemon.once import current_snapshot  # here: it imports the checks, as above

                return await current_snapshot(registry, seconds)

            machine, networks = socket.gethostname(), settings.fleet.networks
            asking = Asking(
                machine,
                networks,
                self._lookup,
                ASK_SECONDS,
                token=lambda: self._endpoint().access.token,
                tls=settings.fleet.trust.context(),
            )
            self._survey = Survey(read, asking.ask, self._id(settings), self._own_answer)
        return self._survey

    def _own_answer(self) -> Answered:
        document = self.own_document()
        return Answered(answer_of(json.dumps(document).encode(), document["id"]))

    def _not_announced(self, settings: Settings) -> str | None:
        if not settings.fleet.announce:
            return "announce is false"
        return "the admin endpoint does not listen" if self._announcer is None else self._announcer.problem

    async def _announcement(self) -> Announcement:
        """Return this daemon as others are told of it. Raises ValueError while they could not reach it."""
        settings = self._used
        host, port = settings.admin or ("", 0)
        own = await on_thread(lambda: _own_address(host, settings.fleet.address), "own address")
        status = self._status()
        roles = (("consumer", status.consumers), ("provider", status.providers))
        return Announcement(
            self._id(settings),
            own,
            port,
            "http" if self._endpoint().access.tls is None else "https",
            _version(),
            socket.gethostname(),
            str(self._path.parent),
            tuple(role for role, instances in roles if instances),
            self._since,
        )

    def _owner(self, settings: Settings) -> DefaultOwner:
        # Several daemons may share a run directory, and none shares the address of its admin endpoint.
        admin = join_host_port(*settings.admin) if settings.admin is not None else "off"
        return DefaultOwner(f"daemon {admin}", self._path)

    def _id(self, settings: Settings) -> str:
        return id_of(str(self._owner(settings)))


def _what_matters(settings: Settings) -> tuple[object, ...]:
    return settings.registry, settings.admin, settings.fleet


def _own_address(host: str, source: str | None) -> str:
    """Return the address to announce for an admin endpoint that listens on `host`. Blocks. Raises ValueError."""
    if source is not None:
        own = OwnAddresses([source]).read()
        if not own:
            raise ValueError(f"announce_address: this machine has no address {source}")
        return own[0].host
    found = announced_address(OwnAddresses().read(), [host], loopback=True)
    if found is None:
        raise ValueError(f"this machine has no address by which others reach {host}; set announce_address")
    return found[0].host


@cache
def _version() -> str:
    return version("discovery-framework")
