"""The data model, immutable: backends, services, snapshots and the changes between snapshots.

This module imports the standard library alone. Nothing here does I/O or validates input: `discovery.validity` has the
rules.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import chain, compress
from operator import attrgetter, is_not
from types import MappingProxyType
from typing import TypeVar
from zlib import crc32

_NO_LABELS: Mapping[str, str] = MappingProxyType({})
_BY_ID = attrgetter("id")
_RUN_LENGTH = 64
"""Backends, the average length of a run of a `Service`: a change copies one run and the tuple of all runs.

For 10,000 backends both copies are short.
"""

T = TypeVar("T")

Endpoint = tuple[str, int]
"""A host name and a port."""
Addresses = Mapping[Endpoint, tuple[str, ...]]
"""The IP addresses of each endpoint for which any is known, in the order in which to try them."""


def join_host_port(host: str, port: int | str) -> str:
    """Return `HOST:PORT`, with an IPv6 address in brackets.

    `host` is an IP address without brackets, or a host name; neither `host` nor `port` is validated.
    """
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def split_host_port(address: str) -> Endpoint:
    """Return host (without brackets) and port of an `address` that `join_host_port` returned."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


class State(StrEnum):
    """Permission to give a backend new work."""

    ACTIVE = "active"
    DRAINING = "draining"


@dataclass(frozen=True, slots=True)
class Backend:
    """A backend: an address that serves a service.

    `service` is the service's name and `id` a name within the service: both together are the key in the registry.
    `host` is an IPv4 or IPv6 address (without brackets) or a host name; `port` is 1-65535; `weight` is 0-256, relative
    to the other backends of the service, and 0 means "no new connections". `state` says whether new work may be given.
    `labels` are texts by name, and cannot be changed. `created` is the registry's revision at which the record was
    created, None if the registry does not tell; backends that differ in `created` alone are equal. Nothing is validated
    here: `discovery.registry.validate` does that.
    """

    service: str
    id: str
    host: str
    port: int
    weight: int = 1
    state: State = State.ACTIVE
    labels: Mapping[str, str] = field(default_factory=lambda: _NO_LABELS, hash=False)
    created: int | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        """Replace the labels by an immutable copy, so that threads can share the backend."""
        if type(self.labels) is not MappingProxyType:
            frozen = MappingProxyType(dict(self.labels)) if self.labels else _NO_LABELS
            object.__setattr__(self, "labels", frozen)

    @property
    def key(self) -> str:
        """The key of the backend's record, `SERVICE/ID`, relative to the registry's prefix."""
        return f"{self.service}/{self.id}"

    @property
    def address(self) -> str:
        """`host:port`, with an IPv6 host in brackets."""
        return join_host_port(self.host, self.port)

    @property
    def is_named(self) -> bool:
        """True if `host` is a host name, which has to be looked up, and not an IP address."""
        # By the validation of records a name has no colon, and its last part is not a number.
        return ":" not in self.host and not self.host.rpartition(".")[2].isdigit()

    @property
    def accepts_work(self) -> bool:
        """True if new connections may go to the backend."""
        return self.state is State.ACTIVE and self.weight > 0


@dataclass(frozen=True, slots=True)
class Service:
    """A named group of backends, ordered by their ids. `of` makes a service; `with_changes` makes the next version.

    `name` is the service's name. `runs` has the backends in runs of about 64; `backends` has all of them. A new version
    shares every run that did not change with the version before: a change of one backend among 10,000 copies one run.
    The end of a run depends on the ids alone, so services with equal backends have equal runs, whatever changes led to
    them.
    """

    name: str
    runs: tuple[tuple[Backend, ...], ...] = ()

    @classmethod
    def of(cls, name: str, backends: Iterable[Backend]) -> "Service":
        """Return the service `name` of `backends`, in any order. The last of several backends with one id counts."""
        return cls(name, tuple(_runs(sorted({b.id: b for b in backends}.values(), key=_BY_ID))))

    @property
    def backends(self) -> tuple[Backend, ...]:
        """Every backend, ordered by id. Each access builds a new tuple."""
        return tuple(chain.from_iterable(self.runs))

    def __len__(self) -> int:
        """Return the number of backends."""
        return sum(map(len, self.runs))

    def get(self, id_: str) -> Backend | None:
        """Return the backend with the id `id_`, or None. Takes time logarithmic in the number of backends."""
        at = bisect_right(self.runs, id_, key=lambda run: run[0].id) - 1
        if at < 0:
            return None
        run = self.runs[at]
        place = bisect_left(run, id_, key=_BY_ID)
        return run[place] if place < len(run) and run[place].id == id_ else None

    def with_changes(self, changes: Mapping[str, Backend | None]) -> "Service":
        """Return this service with `changes`: by id, the backend to put in place, or None to leave the id out."""
        runs = list(self.runs)
        for id_, backend in changes.items():
            _change(runs, id_, backend)
        return Service(self.name, tuple(runs))


@dataclass(frozen=True, slots=True)
class Rejected:
    """A registry record that was refused, or, with `field`, a field of a record that was ignored.

    `key` is the key of the record, and `reason` is text for a person.
    """

    key: str
    reason: str
    field: str | None = None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Every service at the registry's revision `revision`: a pure function of the registry's contents.

    `services` is ordered by name and has no service without backends. `rejected` has the details of some rejected
    records; `more_rejected` is the number of the other rejections.
    """

    revision: int
    services: Mapping[str, Service] = field(default_factory=lambda: MappingProxyType({}), hash=False)
    rejected: tuple[Rejected, ...] = ()
    more_rejected: int = 0

    @classmethod
    def of(
        cls,
        revision: int,
        backends: Iterable[Backend],
        rejected: Iterable[Rejected] = (),
        more_rejected: int = 0,
    ) -> "Snapshot":
        """Return a snapshot at `revision`, from `backends` in any order.

        `rejected` and `more_rejected` are those of the snapshot.
        """
        groups: dict[str, list[Backend]] = {}
        for backend in backends:
            groups.setdefault(backend.service, []).append(backend)
        services = {name: Service.of(name, groups[name]) for name in sorted(groups)}
        return cls(
            revision,
            MappingProxyType(services),
            tuple(sorted(rejected, key=lambda r: (r.key, r.field or ""))),
            more_rejected,
        )

    def backends(self) -> Iterator[Backend]:
        """Yield every backend, ordered by service and id."""
        for service in self.services.values():
            yield from service.backends


@dataclass(frozen=True, slots=True)
class Changes:
    """The difference between two snapshots: backends `added`, `updated` and `removed`, ordered by service and id.

    `updated` has the new version of a backend.
    """

    added: tuple[Backend, ...] = ()
    updated: tuple[Backend, ...] = ()
    removed: tuple[Backend, ...] = ()

    def __bool__(self) -> bool:
        """Return True if anything differs."""
        return bool(self.added or self.updated or self.removed)


def diff(old: Snapshot | None, new: Snapshot) -> Changes:
    """Return the changes from `old` to `new`. None stands for no backends.

    Revisions and rejections are not compared.
    """
    added: list[Backend] = []
    updated: list[Backend] = []
    removed: list[Backend] = []
    before: Mapping[str, Service] = old.services if old is not None else {}
    was, now = _not_shared(tuple(before.values()), tuple(new.services.values()))
    old_services, new_services = ({service.name: service.runs for service in each} for each in (was, now))
    for name in sorted(old_services.keys() | new_services.keys()):
        _diff_runs(old_services.get(name, ()), new_services.get(name, ()), added, updated, removed)
    return Changes(tuple(added), tuple(updated), tuple(removed))


def _diff_runs(
    was: tuple[tuple[Backend, ...], ...],
    now: tuple[tuple[Backend, ...], ...],
    added: list[Backend],
    updated: list[Backend],
    removed: list[Backend],
) -> None:
    was, now = _not_shared(was, now)
    before, after = _not_shared(tuple(chain.from_iterable(was)), tuple(chain.from_iterable(now)))
    old = {backend.id: backend for backend in before}
    for backend in after:
        previous = old.pop(backend.id, None)
        if previous is None:
            added.append(backend)
        elif previous != backend:
            updated.append(backend)
    removed.extend(old.values())


def _not_shared(was: tuple[T, ...], now: tuple[T, ...]) -> tuple[tuple[T, ...], tuple[T, ...]]:
    """Return the objects of `was` that are not in `now`, and the objects of `now` that are not in `was`.

    Objects are compared by identity. In tuples of equal length only objects at the same index are compared.
    """
    if len(was) == len(now):
        differs = tuple(map(is_not, was, now))
        return tuple(compress(was, differs)), tuple(compress(now, differs))
    # Both tuples are ordered, so an insertion or a removal at one place leaves the objects before and behind shared.
    start = _common_prefix_length(was, now)
    was, now = was[start:], now[start:]
    end = _common_prefix_length(was[::-1], now[::-1])
    was, now = was[: len(was) - end], now[: len(now) - end]
    shared = set(map(id, was)) & set(map(id, now))
    return tuple(each for each in was if id(each) not in shared), tuple(each for each in now if id(each) not in shared)


def _common_prefix_length(first: tuple[T, ...], second: tuple[T, ...]) -> int:
    """Return the number of objects at the beginning of both tuples that are identical."""
    at = bytes(map(is_not, first, second)).find(1)
    return min(len(first), len(second)) if at < 0 else at


def _ends_run(backend: Backend) -> bool:
    """Return True if a run ends with `backend`: this depends on the id alone."""
    return crc32(backend.id.encode()) % _RUN_LENGTH == 0


def _runs(backends: Sequence[Backend]) -> Iterator[tuple[Backend, ...]]:
    """Yield the runs of `backends`, which are ordered by id: a run ends after each backend with `_ends_run`."""
    start = 0
    for end, backend in enumerate(backends, 1):
        if end == len(backends) or _ends_run(backend):
            yield tuple(backends[start:end])
            start = end


def _change(runs: list[tuple[Backend, ...]], id_: str, backend: Backend | None) -> None:
    """Replace or insert the backend with the id `id_` by `backend`; with None, remove the backend.

    Afterwards `runs` is equal to the result of `_runs` for the changed backends.
    """
    at = max(0, bisect_right(runs, id_, key=lambda run: run[0].id) - 1)
    run = list(runs[at]) if runs else []
    place = bisect_left(run, id_, key=_BY_ID)
    there = place < len(run) and run[place].id == id_
    if backend is not None and there:
        if run[place] != backend:  # an equal backend keeps the present object, so that versions share the run
            run[place] = backend
            runs[at] = tuple(run)
        return
    if backend is not None:
        run.insert(place, backend)
    elif there:
        del run[place]
    else:
        return
    through = at + 1
    if through < len(runs) and not (run and _ends_run(run[-1])):
        run += runs[through]
        through += 1
    runs[at:through] = _runs(run)
