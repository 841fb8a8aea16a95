"""What consumers have a place for: asked of them on demand, as `discovery explain` asks, and kept while it is true.

Of a new snapshot only the runs of backends that changed are asked about. Nothing is asked while nobody looks.
"""

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple, Protocol

from discovery.model import Backend, Snapshot
from discovery.system.asyncio_tools import wait_for_tasks

MOST_ASKED = 500
"""Backends of one question: a consumer answers it between two applies."""
ANSWER_SECONDS = 2.0
"""Seconds that a consumer has for an answer."""
_MOST_DOUBLED = 16
"""Failures in a row after which the pause is not doubled any more: it is the longest one by then."""


class Pace(NamedTuple):
    """How often a consumer is asked.

    `least` and `most` are seconds between two rounds of questions. `every` is after how many seconds a consumer that
    has applied something since is asked about everything: its configuration may be another. `share` is the share of a
    processor that the questions may take: where answers take longer, there are fewer rounds.
    """

    least: float = 0.2
    most: float = 60.0
    every: float = 5.0
    share: float = 0.01


class Driven(NamedTuple):
    """What a consumer makes of the backends that it has applied.

    `services` has, by service, the number of backends for which the consumer has a place; `untold` the number of those
    of which it does not tell. Backends that it has never answered about are among these once an answer has failed or
    was late. Names with the number 0 are left out. `is_whole` is False while the consumer has not answered about some.
    `tells` is False of a consumer whose plugin never tells.
    """

    services: Mapping[str, int] = MappingProxyType({})
    untold: Mapping[str, int] = MappingProxyType({})
    is_whole: bool = True
    tells: bool = True


class Asked(Protocol):
    """A consumer that can be asked: a `ConsumerRunner`."""

    @property
    def applied(self) -> Snapshot | None:
        """What the consumer has applied."""

    @property
    def applies(self) -> int:
        """How often it has applied something."""

    @property
    def tells_places(self) -> bool:
        """Whether its plugin tells anything."""

    async def places(self, backends: Sequence[Backend], timeout: float) -> Mapping[str, bool]:
        """Return whether the consumer has a place for each of `backends`, by key. May raise anything."""


class Driving:
    """Asks the consumers of a daemon, and keeps their answers. For one event loop."""

    def __init__(
        self,
        consumers: Callable[[], Mapping[str, Asked]],
        tell: Callable[[], None] = lambda: None,
        pace: Pace = Pace(),  # noqa: B008 - frozen
    ) -> None:
        """Ask nobody yet. `tell` is called whenever an answer is another than before."""
        self._consumers = consumers
        self._tell = tell
        self._pace = pace
        self._known: dict[str, _Known] = {}
        self._closed = False

    def glance(self) -> Mapping[str, Driven]:
        """Return what is known at once, by consumer; ask in the background about what is not known any more.

        After `close` nothing is known.
        """
        if self._closed:
            return {}
        before, self._known = self._known, {}
        for name, consumer in self._consumers().items():
            known = before.pop(name, None)
            if known is None or known.consumer is not consumer:
                if known is not None:
                    known.stop()
                known = _Known(consumer, self._tell, self._pace)
            self._known[name] = known
            known.refresh()
        for gone in before.values():
            gone.stop()
        return {name: known.driven for name, known in self._known.items()}

    async def look(self, seconds: float) -> Mapping[str, Driven]:
        """Return what is known once every question has been answered, or after `seconds`."""
        self.glance()
        asking = {known.asking for known in self._known.values() if known.asking is not None}
        if asking:
            await wait_for_tasks(asking, seconds)
        return self.glance()

    def close(self) -> None:
        """Ask nobody any more. Idempotent."""
        self._closed = True
        for known in self._known.values():
            known.stop()
        self._known = {}


class _Told(NamedTuple):
    """What a consumer has told of a run: the numbers of backends with a place, and of those that it does not tell."""

    run: tuple[Backend, ...]
    placed: int
    untold: int


class _Known:
    """What is known of one consumer."""

    def __init__(self, consumer: Asked, tell: Callable[[], None], pace: Pace) -> None:
        self.consumer = consumer
        self.driven = Driven(tells=consumer.tells_places, is_whole=consumer.applied is None)
        self.asking: asyncio.Task[None] | None = None
        self._tell = tell
        self._pace = pace
        self._runs: dict[int, _Told] = {}  # by the id of a run, which is kept
        self._snapshot: Snapshot | None = None
        self._shown: Snapshot | None = None
        self._applies = 0
        self._earliest = self._earliest_of_all = 0.0
        self._failures = 0  # in a row

    def refresh(self) -> None:
        """Begin to ask if something is not known any more, and it is time."""
        snapshot, now = self.consumer.applied, time.monotonic()
        if not self.consumer.tells_places:
            if snapshot is not self._snapshot:
                self._snapshot = snapshot
                self.driven = Driven(untold=_sizes(snapshot), tells=False)
            return
        if self._failures and snapshot is not self._shown:
            # The next question may be a minute away, and what is new would be missing until then.
            self._shown, self.driven = snapshot, self._count(snapshot, self._runs)
        if (self.asking is not None and not self.asking.done()) or now < self._earliest:
            return
        everything = self.consumer.applies != self._applies and now >= self._earliest_of_all
        if everything or snapshot is not self._snapshot:
            self.asking = asyncio.create_task(self._ask(snapshot, everything), name="what a consumer drives")

    def stop(self) -> None:
        """Ask no more."""
        if self.asking is not None:
            self.asking.cancel()

    async def _ask(self, snapshot: Snapshot | None, everything: bool) -> None:
        applies, began, longest, late = self.consumer.applies, time.monotonic(), 0.0, 0.0
        runs = [] if snapshot is None else [run for each in snapshot.services.values() for run in each.runs]
        before = {id(run): self._runs[id(run)] for run in runs if id(run) in self._runs}
        fresh = {} if everything else dict(before)
        is_whole = True
        for batch in _batches([run for run in runs if id(run) not in fresh]):
            asked = time.monotonic()
            try:
                places = await self.consumer.places([each for run in batch for each in run], ANSWER_SECONDS)
            except Exception:  # noqa: BLE001 - a plugin may raise anything, or be late: it is asked again
                is_whole = False
                late = time.monotonic() - asked
                break
            fresh |= {id(run): _told(run, places) for run in batch}
            longest = max(longest, time.monotonic() - asked)
            self._show(snapshot, {**before, **fresh})
        ended = time.monotonic()
        self._runs = {**before, **fresh}  # and no run that is gone
        # One late answer may be due to an apply; who is late again and again is asked ever less often.
        self._failures = 0 if is_whole else self._failures + 1
        self._show(snapshot, self._runs)
        backoff = min(self._pace.most, late * 2 ** min(self._failures, _MOST_DOUBLED))
        self._earliest = ended + max(self._pause(longest), backoff)
        if is_whole:
            self._snapshot = snapshot
            if everything:
                self._applies = applies
                self._earliest_of_all = ended + max(self._pace.every, self._pause(ended - began))

    def _pause(self, seconds: float) -> float:
        return min(self._pace.most, max(self._pace.least, seconds / self._pace.share))

    def _show(self, snapshot: Snapshot | None, runs: Mapping[int, _Told]) -> None:
        driven = self._count(snapshot, runs)
        self._shown = snapshot
        if driven != self.driven:
            self.driven = driven
            self._tell()

    def _count(self, snapshot: Snapshot | None, runs: Mapping[int, _Told]) -> Driven:
        services: dict[str, int] = {}
        untold: dict[str, int] = {}
        is_whole = True
        for service in snapshot.services.values() if snapshot is not None else ():
            for run in service.runs:
                told = runs.get(id(run))
                if told is None:
                    is_whole = False
                    if not self._failures:
                        continue  # the answer is on its way
                    told = _Told(run, 0, len(run))
                if told.placed:
                    services[service.name] = services.get(service.name, 0) + told.placed
                if told.untold:
                    untold[service.name] = untold.get(service.name, 0) + told.untold
        return Driven(services, untold, is_whole)


def _batches(runs: Sequence[tuple[Backend, ...]]) -> Iterator[list[tuple[Backend, ...]]]:
    batch: list[tuple[Backend, ...]] = []
    size = 0
    for run in runs:
        if batch and size + len(run) > MOST_ASKED:
            yield batch
            batch, size = [], 0
        batch.append(run)
        size += len(run)
    if batch:
        yield batch


def _told(run: tuple[Backend, ...], places: Mapping[str, bool]) -> _Told:
    found = [places.get(each.key) for each in run]
    return _Told(run, found.count(True), found.count(None))


def _sizes(snapshot: Snapshot | None) -> dict[str, int]:
    return {} if snapshot is None else {name: len(service) for name, service in snapshot.services.items()}
