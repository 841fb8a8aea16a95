"""The last changes of the registry, and when each consumer has applied them: recorded apart, joined on request.

The core's loop records changes, and the thread of each consumer its applies: a change costs each of them one entry, and
wakes nobody. The number of entries and the size of each are bounded, however many backends a change has.
"""

import threading
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from operator import attrgetter
from typing import NamedTuple

from discovery.consuming.resolving import Step
from discovery.model import Backend, Rejected, Snapshot
from discovery.system.terminal import printable

MOST_CHANGES = 500
"""Changes that are kept: what happened in a rollout, in less than 2 MiB."""
MOST_NAMED = 10
"""Backends and rejected records of a change that are named; of the others only the number is kept."""
_MOST_APPLIES = 2 * MOST_CHANGES
"""Applies kept of a consumer. An apply need not belong to a kept change: a record that is written again changes none.
"""
_MOST_LOOKED_AT = 1000
"""Backends of a change that are asked for their service: a listing has very many, and the core waits meanwhile."""
_MOST_SERVICES = 40
"""Services of a change whose names are kept, in 2 KiB: those of a thousand take 64 KiB."""
_LONGEST_TEXT = 200
"""Characters about a backend: a label may have thousands."""

_SERVICE_OF = attrgetter("service")


class Named(NamedTuple):
    """A backend or record of a change: `+` added, `~` updated, `-` removed, `!` rejected, its key, and details."""

    mark: str
    key: str
    text: str


class Change(NamedTuple):
    """A change of the services. `arrived` and `offered` are instants of `time.monotonic()`, `time` is of `time.time()`.

    `number` is that of the step. `arrived` is when the registry's event reached the core, `offered` when the consumers
    were offered the snapshot. `listing` marks the first snapshot. `named` has some of the backends, and `services`
    the names of all services that changed; None if these are too many to be known.
    """

    number: int
    revision: int
    time: float
    arrived: float
    offered: float
    listing: bool
    added: int
    updated: int
    removed: int
    rejected: int
    named: tuple[Named, ...]
    services: frozenset[str] | None

    @property
    def size(self) -> int:
        """The number of backends and records that changed."""
        return self.added + self.updated + self.removed + self.rejected

    def concerns(self, service: str) -> bool:
        """Return True if the change may be of this service."""
        return self.services is None or service in self.services


class Applied(NamedTuple):
    """An apply of a consumer that succeeded. Instants are `time.monotonic()`.

    It covers the steps after `after` up to `number`. `verify` is how many seconds of it the consumer waited for
    proof, None if unknown; `failures` is how many attempts failed before. `concerned` is False if nothing of these
    steps concerned the consumer, which was then not called.
    """

    after: int
    number: int
    revision: int
    begun: float
    ended: float
    verify: float | None = None
    failures: int = 0
    concerned: bool = True


class Delay(NamedTuple):
    """The seconds from a change's arrival until a consumer had applied the change, and their parts.

    `watch` is until the snapshot was offered, `queue` until the apply began that succeeded, `apply` that apply, and
    `verify` the part of the apply that waited for proof; None if unknown.
    """

    watch: float
    queue: float
    apply: float
    verify: float | None
    by: Applied

    @property
    def total(self) -> float:
        """All of it."""
        return self.watch + self.queue + self.apply


class ChangeHistory:
    """The last changes. For the core's loop."""

    def __init__(self) -> None:
        """Begin with none."""
        self._changes: deque[Change] = deque(maxlen=MOST_CHANGES)
        self._waiting: deque[Change] = deque(maxlen=MOST_CHANGES)

    @property
    def changes(self) -> tuple[Change, ...]:
        """The changes that consumers were offered, the oldest first."""
        return tuple(self._changes)

    def take(self, step: Step, before: Snapshot | None, snapshot: Snapshot, arrived: float) -> None:
        """Note the step from `before` to `snapshot`, whose event came at `arrived`. A step without a change is none."""
        change = change_of(step, before, snapshot, arrived)
        if change.size or change.listing:
            self._waiting.append(change)

    def offered(self) -> tuple[Change, ...]:
        """Note that the consumers are offered what was taken, and return that, the oldest first."""
        if not self._waiting:
            return ()
        now = time.monotonic()
        offered = tuple(each._replace(offered=now) for each in self._waiting)
        self._waiting.clear()
        self._changes.extend(offered)
        return offered


class AppliedHistory:
    """The last applies of a consumer, written by its thread and read by any."""

    def __init__(self) -> None:
        """Begin with none. Changes that came before are not the consumer's."""
        self._lock = threading.Lock()
        self._applies: deque[Applied] = deque(maxlen=_MOST_APPLIES)
        self._last = 0
        self.since = time.monotonic()
        """When the consumer was made."""

    @property
    def applies(self) -> tuple[Applied, ...]:
        """The applies, the oldest first."""
        with self._lock:
            return tuple(self._applies)

    def add(
        self, number: int, revision: int, begun: float, *, verify: float | None, failures: int, concerned: bool
    ) -> Applied | None:
        """Note that an apply of this step, begun at `begun`, has ended well, and return the entry.

        An older or equal step adds nothing, and returns None.
        """
        if number <= self._last:
            return None
        applied = Applied(self._last, number, revision, begun, time.monotonic(), verify, failures, concerned)
        with self._lock:
            self._applies.append(applied)
        self._last = number
        return applied


def change_of(step: Step, before: Snapshot | None, snapshot: Snapshot, arrived: float) -> Change:
    """Return what `step` has changed. Of a large change only the beginning is looked at."""
    changes = step.changes
    fresh, rejections = _rejected(before, snapshot)
    count = len(changes.added) + len(changes.updated) + len(changes.removed)
    services = None
    if count <= _MOST_LOOKED_AT:
        changed = chain(changes.added, changes.updated, changes.removed)
        names = frozenset(map(_SERVICE_OF, changed)) | {each.key.partition("/")[0] for each in fresh}
        services = names if len(names) <= _MOST_SERVICES else None
    told = chain(
        (Named("!", each.key, _short(each.reason)) for each in fresh),
        (Named("-", each.key, each.address) for each in changes.removed),
        (Named("~", each.key, _difference(_in(before, each), each)) for each in changes.updated),
        (Named("+", each.key, _values(each)) for each in changes.added),
    )
    return Change(
        number=step.number,
        revision=snapshot.revision,
        time=time.time() - (time.monotonic() - arrived),
        arrived=arrived,
        offered=arrived,
        listing=step.is_first,
        added=len(changes.added),
        updated=len(changes.updated),
        removed=len(changes.removed),
        rejected=rejections,
        named=tuple(islice(told, MOST_NAMED)),
        services=services,
    )


def delay(change: Change, applies: Sequence[Applied]) -> Delay | None:
    """Return how long the consumer with these `applies`, ordered, took for `change`; None if it has not, or unknown."""
    at = bisect_left(applies, change.number, key=lambda each: each.number)
    if at == len(applies) or applies[at].after >= change.number:
        return None
    return delay_by(change, applies[at])


def delay_by(change: Change, by: Applied) -> Delay:
    """Return how long the consumer with the apply `by`, which covers `change`, took for the change."""
    begun = max(by.begun, change.offered)
    return Delay(change.offered - change.arrived, begun - change.offered, max(0.0, by.ended - begun), by.verify, by)


def is_forgotten(change: Change, applies: Sequence[Applied], since: float) -> bool:
    """Return True if no entry can tell of `change`: the consumer was made later, or has had too many applies since."""
    return change.offered < since or bool(applies and applies[0].after >= change.number)


def _rejected(before: Snapshot | None, snapshot: Snapshot) -> tuple[Sequence[Rejected], int]:
    """Return the rejections with details that are new, and how many rejections are new."""
    known, more = (before.rejected, before.more_rejected) if before is not None else ((), 0)
    fresh: Sequence[Rejected] = ()
    if snapshot.rejected is not known:  # most changes share them
        old = frozenset(known)
        fresh = [each for each in snapshot.rejected if each not in old]
    return fresh, len(fresh) + max(0, snapshot.more_rejected - more)


def _in(snapshot: Snapshot | None, backend: Backend) -> Backend | None:
    service = snapshot.services.get(backend.service) if snapshot is not None else None
    return service.get(backend.id) if service is not None else None


def _values(backend: Backend) -> str:
    told = [backend.address]
    told += [f"weight={backend.weight}"] if backend.weight != 1 else []
    told += [backend.state.value] if not backend.accepts_work and backend.weight else []
    return " ".join(told)


def _difference(old: Backend | None, new: Backend) -> str:
    if old is None:
        return _values(new)
    return _short(", ".join(_differences(old, new)))


def _differences(old: Backend, new: Backend) -> Iterator[str]:
    if old.address != new.address:
        yield f"address {old.address} -> {new.address}"
    if old.weight != new.weight:
        yield f"weight {old.weight} -> {new.weight}"
    if old.state is not new.state:
        yield f"state {old.state.value} -> {new.state.value}"
    if old.labels != new.labels:
        names = {name for name, _ in set(old.labels.items()) ^ set(new.labels.items())}
        yield f"labels {_listed(sorted(names))}"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)


def _short(text: str) -> str:
    line = printable(text[:_LONGEST_TEXT])
    return line if len(text) <= _LONGEST_TEXT else f"{line}..."
