"""The words of the system as frozen data: backends, services, snapshots and the changes between them.

Ground floor: the standard library alone. Nothing here does I/O or validates; `discovery.codec` validates what comes
from outside, once.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType

_NO_LABELS: Mapping[str, str] = MappingProxyType({})
_STRIDE = 256


class State(StrEnum):
    """Whether a backend may be given new work."""

    ACTIVE = "active"
    DRAINING = "draining"


@dataclass(frozen=True, slots=True)
class Backend:
    """One address that serves a service.

    `host` is an IPv4 or IPv6 address (without brackets) or a host name; `port` is 1-65535; `weight` is 0-256,
    relative to its neighbours, and 0 means "no new connections".
    """

    service: str
    id: str
    host: str
    port: int
    weight: int = 1
    state: State = State.ACTIVE
    labels: Mapping[str, str] = field(default_factory=lambda: _NO_LABELS, hash=False)

    def __post_init__(self) -> None:
        """Freeze the labels, so that a backend can be shared between threads and hashed."""
        if type(self.labels) is not MappingProxyType:
            frozen = MappingProxyType(dict(self.labels)) if self.labels else _NO_LABELS
            object.__setattr__(self, "labels", frozen)

    @property
    def address(self) -> str:
        """`host:port`, an IPv6 host in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def accepts_work(self) -> bool:
        """Whether new connections may go to it."""
        return self.state is State.ACTIVE and self.weight > 0


@dataclass(frozen=True, slots=True)
class Service:
    """A named group of backends, ordered by their ids."""

    name: str
    backends: tuple[Backend, ...] = ()


@dataclass(frozen=True, slots=True)
class Rejected:
    """A registry record that was refused, or (with `field`) one field of it that was ignored."""

    key: str
    reason: str
    field: str | None = None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Every service at one registry revision: a pure function of the registry's contents there.

    `services` is ordered by name and holds no service without backends.
    """

    revision: int
    services: Mapping[str, Service] = field(default_factory=lambda: MappingProxyType({}), hash=False)
    rejected: tuple[Rejected, ...] = ()

    @classmethod
    def of(cls, revision: int, backends: Iterable[Backend], rejected: Iterable[Rejected] = ()) -> "Snapshot":
        """Build a snapshot from backends in any order."""
        groups: dict[str, list[Backend]] = {}
        for backend in backends:
            groups.setdefault(backend.service, []).append(backend)
        services = {
            name: Service(name, tuple(sorted(groups[name], key=lambda backend: backend.id))) for name in sorted(groups)
        }
        return cls(
            revision,
            MappingProxyType(services),
            tuple(sorted(rejected, key=lambda r: (r.key, r.field or ""))),
        )

    def backends(self) -> Iterator[Backend]:
        """Every backend, ordered by service and id."""
        for service in self.services.values():
            yield from service.backends


@dataclass(frozen=True, slots=True)
class Changes:
    """What differs between two snapshots. `updated` holds the new version of each backend, each ordered."""

    added: tuple[Backend, ...] = ()
    updated: tuple[Backend, ...] = ()
    removed: tuple[Backend, ...] = ()

    def __bool__(self) -> bool:
        """Whether anything differs."""
        return bool(self.added or self.updated or self.removed)


def diff(old: Snapshot | None, new: Snapshot) -> Changes:
    """What changed from `old` (None: from nothing) to `new`; revisions and rejections are not compared."""
    added: list[Backend] = []
    updated: list[Backend] = []
    removed: list[Backend] = []
    before = old.services if old is not None else {}
    for name in sorted(before.keys() | new.services.keys()):
        was, now = before.get(name), new.services.get(name)
        if was is not now:
            _diff_backends(was.backends if was else (), now.backends if now else (), added, updated, removed)
    return Changes(tuple(added), tuple(updated), tuple(removed))


def _diff_backends(
    was: tuple[Backend, ...],
    now: tuple[Backend, ...],
    added: list[Backend],
    updated: list[Backend],
    removed: list[Backend],
) -> None:
    head = _common(was, now, min(len(was), len(now)))
    tail = _common(was[::-1], now[::-1], min(len(was), len(now)) - head)
    old = {backend.id: backend for backend in was[head : len(was) - tail]}
    new = now[head : len(now) - tail]
    for backend in new:
        previous = old.pop(backend.id, None)
        if previous is None:
            added.append(backend)
        elif previous != backend:
            updated.append(backend)
    removed.extend(old.values())


def _common(left: tuple[Backend, ...], right: tuple[Backend, ...], limit: int) -> int:
    """How many leading elements of both are surely equal, in whole strides.

    Snapshots share unchanged backends and tuples compare by identity first, so one change among 10,000 is found fast.
    """
    same = 0
    while same + _STRIDE <= limit and left[same : same + _STRIDE] == right[same : same + _STRIDE]:
        same += _STRIDE
    return same
