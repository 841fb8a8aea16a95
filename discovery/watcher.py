"""Registry events to snapshots: the one place where records become backends. Knows no consumer."""

from bisect import bisect_left
from collections.abc import AsyncGenerator, Iterable, Mapping
from dataclasses import dataclass
from operator import attrgetter
from types import MappingProxyType

from discovery.codec import decode
from discovery.model import Backend, Rejected, Service, Snapshot
from discovery.registry import Delta, Registry, RegistryEvent, Reset, Stale

_BY_ID = attrgetter("id")


@dataclass(frozen=True, slots=True)
class Observation:
    """What is known of the registry after one event.

    `snapshot` is None until the first listing. `reset` tells that this event was a listing. `stale` is the reason why
    the registry cannot be followed now, None while it is.
    """

    snapshot: Snapshot | None
    reset: bool = False
    stale: str | None = None


class SnapshotBuilder:
    """Folds registry events into snapshots, which share what did not change. No I/O."""

    def __init__(self) -> None:
        """Begin without a snapshot: not synced, which is not the same as empty."""
        self.snapshot: Snapshot | None = None
        self._rejected: dict[str, tuple[Rejected, ...]] = {}

    def apply(self, event: RegistryEvent) -> Observation:
        """Take one event in. Raises ValueError for a Delta before the first Reset, or one that goes back."""
        match event:
            case Stale(reason):
                return Observation(self.snapshot, stale=reason)
            case Reset(revision, records):
                self.snapshot = self._listing(revision, records)
                return Observation(self.snapshot, reset=True)
            case Delta(revision, puts, deletes):
                if self.snapshot is None or revision < self.snapshot.revision:
                    raise ValueError(
                        f"a change at revision {revision} does not follow {self.snapshot and self.snapshot.revision}"
                    )
                if puts or deletes:
                    self.snapshot = self._changed(self.snapshot, revision, puts, deletes)
                return Observation(self.snapshot)

    def _listing(self, revision: int, records: Mapping[str, bytes]) -> Snapshot:
        self._rejected = {}
        backends = [backend for key, value in records.items() if (backend := self._decode(key, value))]
        return Snapshot.of(revision, backends, self._all_rejected())

    def _changed(
        self, snapshot: Snapshot, revision: int, puts: Mapping[str, bytes], deletes: Iterable[str]
    ) -> Snapshot:
        # None stands for "no such backend any more": deleted, or replaced by a record that is rejected.
        changed: dict[str, dict[str, Backend | None]] = {}
        before = self._rejected.copy()
        for key in deletes:
            self._rejected.pop(key, None)
            service, _, id_ = key.partition("/")
            changed.setdefault(service, {})[id_] = None
        for key, value in puts.items():
            service, _, id_ = key.partition("/")
            changed.setdefault(service, {})[id_] = self._decode(key, value)
        services = dict(snapshot.services)
        for name, backends in changed.items():
            old = services.get(name, Service(name)).backends
            new = _with(old, backends)
            if new:
                services[name] = Service(name, new)
            else:
                services.pop(name, None)
        if services.keys() != snapshot.services.keys():
            services = dict(sorted(services.items()))
        rejected = snapshot.rejected if before == self._rejected else self._all_rejected()
        return Snapshot(revision, MappingProxyType(services), rejected)

    def _decode(self, key: str, value: bytes) -> Backend | None:
        record = decode(key, value)
        if isinstance(record, Rejected):
            self._rejected[key] = (record,)
            return None
        if record.ignored:
            self._rejected[key] = record.ignored
        else:
            self._rejected.pop(key, None)
        return record.backend

    def _all_rejected(self) -> tuple[Rejected, ...]:
        return tuple(rejected for key in sorted(self._rejected) for rejected in self._rejected[key])


def _with(backends: tuple[Backend, ...], changed: Mapping[str, Backend | None]) -> tuple[Backend, ...]:
    """`backends` (ordered by id) with some replaced, added or (None) removed."""
    result = list(backends)
    for id_, backend in changed.items():
        place = bisect_left(result, id_, key=_BY_ID)
        there = place < len(result) and result[place].id == id_
        if backend is not None:
            # Written again without a change: keep the object, so that a comparison by identity sees none.
            if not there:
                result.insert(place, backend)
            elif result[place] != backend:
                result[place] = backend
        elif there:
            del result[place]
    return tuple(result)


async def observe(registry: Registry) -> AsyncGenerator[Observation, None]:
    """Follow the registry for ever, one observation per event; close the iterator to stop."""
    builder = SnapshotBuilder()
    events = registry.watch()
    try:
        async for event in events:
            yield builder.apply(event)
    finally:
        await events.aclose()
