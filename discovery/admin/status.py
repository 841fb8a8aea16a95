"""The state of the daemon as frozen data: what the admin endpoint shows and the metrics count."""

import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from discovery.consuming.holding import Held
from discovery.consuming.owners import Owners
from discovery.consuming.runner import ConsumerStatus
from discovery.model import Addresses, Snapshot

if TYPE_CHECKING:
    from discovery.providing.provider import RunningProviderStatus


class DaemonStatus(NamedTuple):
    """The registry as followed, every consumer and every provider. Instants are `time.monotonic()`.

    `followed` is whether a consumer asks for the registry to be followed at all; `stale` is why it cannot be now;
    `alarms` is what is wrong with it although it can.
    `snapshot_from_disk` marks a snapshot that an earlier run remembered and this one has not yet seen confirmed;
    `snapshot_time` is when it was last known to be true. `addresses` are those of backends that are registered by host
    name, `unresolved` is what is wrong with the names, by the backends' services and ids. `held` are the records in
    the snapshot that the registry has removed, which is not believed, by key. `owners` are those of the records in the
    snapshot. `broken` is why an instance does not run
    whose plugin cannot be loaded, by name.
    """

    registry: str
    followed: bool = True
    snapshot: Snapshot | None = None
    snapshot_time: float | None = None
    snapshot_from_disk: bool = False
    stale: str | None = None
    alarms: tuple[str, ...] = ()
    resets: int = 0
    addresses: Addresses = MappingProxyType({})
    unresolved: Mapping[tuple[str, str], str] = MappingProxyType({})
    held: Mapping[str, Held] = MappingProxyType({})
    owners: Owners = Owners()
    consumers: tuple[ConsumerStatus, ...] = ()
    providers: tuple["RunningProviderStatus", ...] = ()
    config_error: str | None = None
    broken: Mapping[str, str] = MappingProxyType({})

    @property
    def snapshot_age(self) -> float | None:
        """Seconds since the snapshot was last known to be the registry's state: 0 while it is followed."""
        if self.snapshot_time is None:
            return None
        return time.monotonic() - self.snapshot_time if self.stale or self.snapshot_from_disk else 0.0

    @property
    def connected(self) -> bool | None:
        """Whether the registry is followed at this moment; None if nobody asks for it."""
        return (
            self.stale is None and self.snapshot is not None and not self.snapshot_from_disk if self.followed else None
        )

    @property
    def waiting_for(self) -> list[str]:
        """Each consumer that has not applied a snapshot, and each provider whose first set the registry has not had."""
        return [
            *(each.name for each in self.consumers if each.applied_revision is None),
            *(each.runner.name for each in self.providers if not each.ready),
        ]

    @property
    def degraded(self) -> dict[str, str]:
        """Each consumer and provider that does only a part of its work, and why."""
        plugins = (*self.consumers, *(each.runner for each in self.providers))
        problems = self.problems
        return {each.name: each.degraded for each in plugins if each.degraded and each.name not in problems}

    @property
    def problems(self) -> dict[str, str]:
        """Each consumer and provider that is not well, and why."""
        return {
            **{each.name: each.problem for each in self.consumers if each.problem},
            **{each.runner.name: each.problem for each in self.providers if each.problem},
        }
