"""The etcd registry: records under a prefix of an etcd v3 cluster."""

from collections.abc import AsyncGenerator
from weakref import WeakSet

from discovery.errors import RegistryError
from discovery.registry.base import Membership, RegistryEvent
from discovery.registry.etcd.client import Client
from discovery.registry.etcd.failures import alarms_of
from discovery.registry.etcd.lease import EtcdLease
from discovery.registry.etcd.members import Survey
from discovery.registry.etcd.messages import STATUS, StatusRequest
from discovery.registry.etcd.settings import EtcdSettings
from discovery.registry.etcd.watch import Timing, Watch
from discovery.registry.url import RegistryURL


class EtcdRegistry:
    """Implements `discovery.registry.Registry` with an etcd cluster, version 3.4 or later."""

    def __init__(self, settings: EtcdSettings, timing: Timing | None = None) -> None:
        """Create the registry of `settings`. No I/O."""
        self._settings = settings
        self._timing = timing or Timing()
        self._client = Client(settings)
        self._survey = Survey(self._client)
        self._leases: WeakSet[EtcdLease] = WeakSet()
        self._alarms: tuple[str, ...] = ()

    @classmethod
    def from_url(cls, url: RegistryURL) -> "EtcdRegistry":
        """Return the registry of an `etcd://` or `etcds://` URL: see `EtcdSettings.from_url`. Raises ConfigError."""
        return cls(EtcdSettings.from_url(url))

    def watch(self) -> AsyncGenerator[RegistryEvent, None]:
        """See `Registry.watch`."""
        return Watch(self._client, self._settings.prefix, self._timing).events()

    async def open_lease(self, owner: str, ttl: float) -> EtcdLease:
        """See `Registry.open_lease`. The TTL is rounded up to whole seconds and to the cluster's minimum."""
        lease = await EtcdLease.open(self._client, self._settings.prefix, owner, ttl)
        self._leases.add(lease)
        return lease

    async def alarms(self) -> tuple[str, ...]:
        """Return the cluster's alarms that a member reported last, and an alarm if the client certificate has expired.

        The last known alarms stay while no member answers. See `TellsAlarms.alarms`.
        """
        try:
            status = await self._client.call(STATUS, StatusRequest())
            self._alarms = tuple(f"etcd {self._settings}: {what}" for what in alarms_of(status))
        except RegistryError:
            pass  # perhaps the certificate has expired: `TLS.alarms` reports that without an answer
        tls = self._settings.tls
        return (*(() if tls is None else tls.alarms()), *self._alarms)

    async def members(self) -> Membership:
        """Ask the members that the registry's URL names. See `TellsMembers.members`."""
        return await self._survey.take()

    async def close(self) -> None:
        """See `Registry.close`. Open leases are no longer renewed."""
        for lease in list(self._leases):
            await lease.abandon()
        await self._client.close()
