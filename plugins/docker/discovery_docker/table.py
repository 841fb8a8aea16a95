"""The containers of an engine as inspections and events report them, and the state that follows. No I/O."""

import asyncio
import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from discovery_docker.container import Container
from discovery_docker.dockerapi import UNKNOWN, EngineInfo
from discovery_docker.patience import Patience
from discovery_docker.swarm import SERVICE

REPLAY_WINDOW = 60
"""Seconds of past events that a session reads first: they tell which containers were being stopped already."""


@dataclass(frozen=True, slots=True)
class EngineState:
    """The running containers of an engine, paused containers among them, sorted by name.

    `containers` match, `unmatched` do not. `stopping` are the ids of matching containers that are being stopped. `info`
    is empty unless the engine was asked who it is.
    """

    containers: tuple[Container, ...] = ()
    stopping: frozenset[str] = frozenset()
    unmatched: tuple[Container, ...] = ()
    info: EngineInfo = UNKNOWN


@dataclass(frozen=True, slots=True)
class _Signal:
    """The time of a signal to a container: on the engine's clock in nanoseconds, on the loop's clock in seconds."""

    at: int
    since: float


class ContainerTable:
    """The known containers of the engine, by id. Outlives the sessions."""

    def __init__(self, match: Callable[[Container], bool], patience: Patience) -> None:
        self._patience = patience
        self.changed = asyncio.Event()
        self.complete = False
        self.info = UNKNOWN
        self.service_labels: dict[str, Mapping[str, str]] = {}
        self.refusal_told = False
        self._match = match
        self._matched: dict[str, Container] = {}
        self._unmatched: dict[str, Container] = {}
        self._signals: dict[str, dict[int, _Signal]] = {}
        self._sequence = itertools.count(1)
        self._latest: dict[str, int] = {}

    @property
    def ids(self) -> frozenset[str]:
        """The ids of the containers that were running."""
        return frozenset((*self._matched, *self._unmatched))

    @property
    def services(self) -> frozenset[str]:
        """The ids of the services in Swarm that the containers are tasks of."""
        groups = (self._matched, self._unmatched)
        return frozenset(id_ for group in groups for each in group.values() if (id_ := each.labels.get(SERVICE)))

    def tasks(self, service: str) -> list[str]:
        """Return the ids of the containers of a service in Swarm."""
        groups = (self._matched, self._unmatched)
        return [id_ for group in groups for id_, each in group.items() if each.labels.get(SERVICE) == service]

    def has_health(self, id_: str) -> bool:
        """Return True if the container has a health check, as far as is known."""
        container = self._matched.get(id_) or self._unmatched.get(id_)
        return container is not None and container.health is not None

    def next_sequence(self) -> int:
        """Return the sequence number of an inspection that begins now. The result with the highest number stands."""
        return next(self._sequence)

    def update(self, id_: str, container: Container | None, sequence: int) -> None:
        """Store the result of an inspection; None for a container that does not exist."""
        if sequence < self._latest.get(id_, 0):
            return
        self._latest[id_] = sequence
        for group, matches in ((self._matched, True), (self._unmatched, False)):
            if container is None or not container.running or self._match(container) is not matches:
                if group.pop(id_, None) is not None:
                    self.changed.set()
            elif container != group.get(id_):  # an equal container stays the same object, so that states compare fast
                group[id_] = container
                self.changed.set()

    def remove(self, id_: str, at: int) -> None:
        """Remove a container that ended at `at` (engine's clock, nanoseconds), whatever pending inspections report."""
        self._latest[id_] = self.next_sequence()
        for group in (self._matched, self._unmatched):
            container = group.get(id_)
            if container is not None and at >= container.started_at:
                del group[id_]
                self.changed.set()

    def add_signal(self, id_: str, number: int, at: int, since: float) -> None:
        """Store that a container was sent the signal `number`; the times are those of `_Signal`."""
        self._signals.setdefault(id_, {})[number] = _Signal(at, since)
        self.changed.set()

    def finish_listing(self, sequence: int, now: float) -> None:
        """Mark the table as complete, after inspections with numbers from `sequence` on, and drop outdated entries."""
        self._latest = {id_: latest for id_, latest in self._latest.items() if latest >= sequence}
        self._signals = {
            id_: signals
            for id_, signals in self._signals.items()
            if id_ in self._matched or any(now - signal.since < REPLAY_WINDOW for signal in signals.values())
        }
        self.complete = True
        self.changed.set()

    def state(self, now: float) -> tuple[EngineState, float | None]:
        """Return the state, and the time on the loop's clock at which the state changes without an event, if any."""
        stopping: dict[str, float] = {}
        for id_, signals in self._signals.items():
            if (container := self._matched.get(id_)) is not None:
                ends_at = max(_stop_ends(container, signals, self._patience), default=now)
                if ends_at > now:
                    stopping[id_] = ends_at
        state = EngineState(_by_name(self._matched), frozenset(stopping), _by_name(self._unmatched), self.info)
        return state, min(stopping.values(), default=None)


def _by_name(containers: Mapping[str, Container]) -> tuple[Container, ...]:
    return tuple(sorted(containers.values(), key=lambda container: (container.name, container.id)))


def _stop_ends(container: Container, signals: Mapping[int, _Signal], patience: Patience) -> Iterator[float]:
    """Yield for each stop signal the time at which a container that still runs has survived the signal."""
    timeout = patience.stop if container.stop_timeout is None else container.stop_timeout
    for number, signal in signals.items():
        if container.is_stop_signal(number) and signal.at >= container.started_at:
            yield signal.since + timeout + patience.after_stop
