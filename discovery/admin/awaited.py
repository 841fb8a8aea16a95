"""The state of a service that a client of `/api/wait` waits for, and what that state still lacks. No I/O."""

from collections.abc import Mapping
from typing import NamedTuple

from discovery.model import Backend, Service, Snapshot


class Awaited(NamedTuple):
    """A state: a service with enough backends that accept work, and not too many, at a revision or a later one.

    Each consumer in `applied_by` is to have applied that state; without any the snapshot of the daemon counts.
    """

    service: str
    least: int = 1
    most: int | None = None
    revision: int | None = None
    applied_by: tuple[str, ...] = ()


class Standing(NamedTuple):
    """What is missing of a state, None if it is there; and the number of backends, and the revision, by consumer.

    The key of what the daemon itself has is the empty string.
    """

    missing: str | None
    backends: Mapping[str, int]
    revisions: Mapping[str, int | None]


class Accepting:
    """Counts the backends of one service that accept work. Of a new version only the runs that changed are counted."""

    def __init__(self) -> None:
        """Begin without a version."""
        self._version: Service | None = None
        self._count = 0
        self._known: dict[int, tuple[tuple[Backend, ...], int]] = {}  # by the id of a run, which is kept alive

    def count(self, service: Service | None) -> int:
        """Return the number of backends of this version that accept work."""
        if service is not self._version:  # most changes are of other services
            runs = service.runs if service is not None else ()
            self._known = {id(run): self._known.get(id(run)) or (run, _count(run)) for run in runs}
            self._version, self._count = service, sum(count for _, count in self._known.values())
        return self._count


class Awaiting:
    """Looks again and again whether a state is there."""

    def __init__(self, awaited: Awaited) -> None:
        """Keep what is `awaited`."""
        self._awaited = awaited
        self._counters = {name: Accepting() for name in awaited.applied_by or ("",)}

    def look(self, snapshots: Mapping[str, Snapshot | None]) -> Standing:
        """Return what is missing. `snapshots` has what each consumer of `applied_by` has applied; or that at ""."""
        there = {name: snapshots.get(name) for name in self._counters}
        backends = {name: self._count(name, snapshot) for name, snapshot in there.items()}
        revisions = {name: None if each is None else each.revision for name, each in there.items()}
        missing = (self._missing(name, backends[name], revisions[name]) for name in there)
        return Standing(next((each for each in missing if each is not None), None), backends, revisions)

    def _count(self, name: str, snapshot: Snapshot | None) -> int:
        return self._counters[name].count(snapshot.services.get(self._awaited.service) if snapshot else None)

    def _missing(self, name: str, backends: int, revision: int | None) -> str | None:
        awaited, whose = self._awaited, f"{name} has applied" if name else "the daemon has"
        if revision is None:
            return f"{whose} no snapshot yet"
        if awaited.revision is not None and revision < awaited.revision:
            return f"{whose} revision {revision}, and not {awaited.revision}"
        if backends < awaited.least:
            return f"{whose} {backends} of {awaited.least} backends"
        if awaited.most is not None and backends > awaited.most:
            return f"{whose} {backends} backends, and not {awaited.most}"
        return None


def _count(run: tuple[Backend, ...]) -> int:
    return sum(each.accepts_work for each in run)
