"""Registry events to snapshots: the one place where records become backends. Knows no consumer."""

from collections.abc import AsyncGenerator, Collection, Iterable, Mapping
from contextlib import aclosing
from types import MappingProxyType
from typing import NamedTuple

from discovery.codec import decode
from discovery.consuming.events import contained_events
from discovery.consuming.owners import RecordOwners
from discovery.consuming.rejections import Rejections
from discovery.model import Backend, Rejected, Service, Snapshot
from discovery.registry import Delta, Registry, RegistryEvent, Reset, Stale


class Observation(NamedTuple):
    """The known state of the registry after an event.

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
        self.owners = RecordOwners()
        self._services: dict[str, Service] = {}  # the snapshot's own: a dict is copied faster than through its proxy
        self._rejections = Rejections()

    def apply(self, event: RegistryEvent, keep: Iterable[Backend] = ()) -> Observation:
        """Take in an event; after a Reset there are also the backends of `keep`, whose records it does not list.

        Raises ValueError for a Delta before the first Reset, or one that goes back.
        """
        match event:
            case Stale(reason):
                return Observation(self.snapshot, stale=reason)
            case Reset(revision, records):
                self.snapshot = self._listing(revision, records, keep, event.created)
                return Observation(self.snapshot, reset=True)
            case Delta(revision, puts, deletes):
                if self.snapshot is None or revision < self.snapshot.revision:
                    raise ValueError(
                        f"a change at revision {revision} does not follow {self.snapshot and self.snapshot.revision}"
                    )
                if puts or deletes:
                    self.snapshot = self._changed(self.snapshot, revision, puts, deletes, event.created)
                return Observation(self.snapshot)

    def restore(self, snapshot: Snapshot) -> None:
        """Begin from a snapshot that an earlier run remembered, until there is a listing."""
        self.snapshot = snapshot
        self._services = dict(snapshot.services)

    def drop(self, keys: Collection[str]) -> Observation:
        """Leave out backends that were kept although the registry has no record of them."""
        if self.snapshot is not None and keys:
            self.snapshot = self._changed(self.snapshot, self.snapshot.revision, {}, keys)
        return Observation(self.snapshot)

    def _listing(
        self, revision: int, records: Mapping[str, bytes], keep: Iterable[Backend], created: Mapping[str, int] | None
    ) -> Snapshot:
        self._rejections = Rejections()
        keep = list(keep)
        self.owners.keep(each.key for each in keep)
        backends = [backend for key, value in records.items() if (backend := self._decode(key, value, created))]
        rejections = self._rejections
        snapshot = Snapshot.of(revision, [*backends, *keep], rejections.detailed, rejections.more)
        self._services = dict(snapshot.services)
        return snapshot

    def _changed(
        self,
        snapshot: Snapshot,
        revision: int,
        puts: Mapping[str, bytes],
        deletes: Iterable[str],
        created: Mapping[str, int] | None = None,
    ) -> Snapshot:
        # None stands for "no such backend any more": deleted, or replaced by a record that is rejected.
        changed: dict[str, dict[str, Backend | None]] = {}
        for key in deletes:
            self._rejections.drop(key)
            if key not in puts:
                self.owners.drop(key)
            name, _, id_ = key.partition("/")
            changed.setdefault(name, {})[id_] = None
        for key, value in puts.items():
            name, _, id_ = key.partition("/")
            changed.setdefault(name, {})[id_] = self._decode(key, value, created)
        versions: dict[str, Service] = {}
        for name, backends in changed.items():
            known = self._services.get(name, Service(name))
            version = known.with_changes(backends)
            if version != known:
                versions[name] = version
        services = snapshot.services
        if versions:  # a rejected record changes none, and a flood of them must not cost a copy of all services each
            self._services = _with_versions(self._services, versions)
            services = MappingProxyType(self._services)
        rejections = self._rejections
        return Snapshot(revision, services, rejections.detailed, rejections.more)

    def _decode(self, key: str, value: bytes, created: Mapping[str, int] | None) -> Backend | None:
        record = decode(key, value)
        if isinstance(record, Rejected):
            self._rejections.put(key, (record,))
            self.owners.drop(key)
            return None
        self._rejections.put(key, record.ignored)
        self.owners.put(key, record.owner)
        if created is not None:  # set in place, not by a copy of each of 100,000: nobody else has the object yet
            object.__setattr__(record.backend, "created", created.get(key))
        return record.backend


def _with_versions(services: dict[str, Service], versions: dict[str, Service]) -> dict[str, Service]:
    """The services with these versions in place, ordered by name, without those that have no backend any more."""
    changed = services | versions
    for name, version in versions.items():
        if not version.runs:
            del changed[name]
    if versions.keys() <= services.keys():
        return changed
    names = sorted(changed)
    return dict(zip(names, map(changed.__getitem__, names), strict=True))


async def observe(registry: Registry) -> AsyncGenerator[Observation, None]:
    """Follow the registry forever, with an observation for each event; close the iterator to stop."""
    builder = SnapshotBuilder()
    async with aclosing(contained_events(registry)) as events:
        async for event in events:
            yield builder.apply(event)
