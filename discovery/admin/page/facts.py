"""Everything that a picture of the daemon shows, taken at one moment, as frozen data."""

import time
from collections import Counter
from collections.abc import Mapping
from functools import cached_property
from types import MappingProxyType
from typing import NamedTuple

from discovery.admin.driving import Driven
from discovery.admin.members import Told
from discovery.admin.page.filters import Conditions
from discovery.admin.sources import Sources
from discovery.admin.status import DaemonStatus
from discovery.consuming.history import Applied, Change
from discovery.model import Snapshot


class Applies(NamedTuple):
    """What a consumer has applied: the part of the snapshot, the last applies, and when the consumer was made."""

    snapshot: Snapshot | None = None
    applies: tuple[Applied, ...] = ()
    since: float = 0.0


class _Facts(NamedTuple):
    status: DaemonStatus
    changes: tuple[Change, ...] = ()
    applies: Mapping[str, Applies] = MappingProxyType({})
    offset: float = 0.0
    members: Told | None = None
    driven: Mapping[str, Driven] = MappingProxyType({})


class Facts(_Facts):
    """The daemon's state, its last changes, what each consumer has applied by name.

    `offset` is what is added to an instant of `time.monotonic()` for the seconds of `time.time()`: always the same, so
    that what has not changed is shown as before. `members` is what the registry has told of its servers, and
    `driven` what is known of the things that each consumer drives, by name.
    """

    def moment(self, instant: float) -> float:
        """Return the seconds of `time.time()` for an instant."""
        return round(instant + self.offset, 3)

    @cached_property
    def down(self) -> dict[str, str]:
        """Why backends are down in the data plane, by key: each consumer that says so, and its reason."""
        found: dict[str, list[str]] = {}
        for consumer in self.status.consumers:
            for key, reason in consumer.health.down.items():
                found.setdefault(key, []).append(f"{consumer.name}: {reason}")
        return {key: "; ".join(reasons) for key, reasons in found.items()}

    @cached_property
    def down_by_service(self) -> Counter[str]:
        """The number of backends that are down in the data plane, by service."""
        return Counter(key.partition("/")[0] for key in self.down)

    @cached_property
    def conditions(self) -> Conditions:
        """The keys of the backends that are not in order."""
        return Conditions(
            frozenset(self.down), frozenset(map("/".join, self.status.unresolved)), frozenset(self.status.held)
        )


def facts_of(sources: Sources, offset: float, driven: Mapping[str, Driven]) -> Facts:
    """Return the state at this moment. For the core's loop."""
    applies = {
        name: Applies(runner.applied, runner.history.applies, runner.history.since)
        for name, runner in sources.consumers().items()
    }
    members = None if sources.members is None else sources.members.glance()
    return Facts(sources.status(), sources.changes(), applies, offset, members, driven)


def wall_offset() -> float:
    """Return what is added to an instant of `time.monotonic()` for the seconds of `time.time()`."""
    return time.time() - time.monotonic()
