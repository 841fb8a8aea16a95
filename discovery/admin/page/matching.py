"""The backends of a snapshot that a reader looks for: a page of them, and their number.

Of a new snapshot only the runs that changed are looked at. The core's loop does this, so the work is in slices.
"""

import asyncio
import time
from collections.abc import Mapping
from itertools import islice
from typing import NamedTuple

from discovery.admin.page.filters import ROWS_OF_A_PAGE, Conditions, Filters, predicate
from discovery.consuming.owners import Owners
from discovery.model import Backend, Service, Snapshot

SLICE_SECONDS = 0.002
"""Seconds of work in a row on the core's loop: what else the core does waits no longer."""
_LOOKS_BETWEEN = 16
"""Runs between two looks at the clock: about a thousand backends, 1 ms."""


class Page(NamedTuple):
    """A page of the backends that are wanted.

    `found` is the number of all of them, `all` that of the snapshot. `number` is the page's, of `last`.
    """

    rows: tuple[Backend, ...] = ()
    found: int = 0
    all: int = 0
    number: int = 1
    last: int = 1


class Slices:
    """Gives the loop to others whenever a slice is over, and adds up what the slices have cost."""

    def __init__(self, seconds: float = SLICE_SECONDS) -> None:
        """A first slice of `seconds` begins."""
        self._seconds = seconds
        self._cost = 0.0
        self._begin()

    async def breathe(self) -> None:
        """Let others have their turn if the slice is over, and begin the next one."""
        if time.perf_counter() - self._begun > self._seconds:
            self._cost += time.thread_time() - self._used
            await asyncio.sleep(0)
            self._begin()

    def end(self) -> float:
        """End the last slice; return the seconds of a processor that all of them have taken."""
        self._cost += time.thread_time() - self._used
        return self._cost

    def _begin(self) -> None:
        self._begun, self._used = time.perf_counter(), time.thread_time()


class Matching:
    """Finds the backends of one reader's filters in one snapshot after the other."""

    def __init__(self, filters: Filters) -> None:
        """Begin without a snapshot."""
        self._filters = filters
        self._conditions = Conditions()
        self._moves = 0
        self._known: dict[int, tuple[tuple[Backend, ...], tuple[Backend, ...]]] = {}  # by the id of a run

    async def page(self, snapshot: Snapshot | None, conditions: Conditions, owners: Owners, slices: Slices) -> Page:
        """Return the page of the backends that are wanted; the last one if there are fewer pages."""
        if snapshot is None:
            return Page()
        if self._filters.health and conditions != self._conditions:
            self._known = {}
        if self._filters.q and owners.moves != self._moves:  # a run that is the same may have another owner
            self._known = {}
        self._conditions, self._moves = conditions, owners.moves
        services = self._services(snapshot.services)
        all_ = sum(map(len, snapshot.services.values()))
        matches = predicate(self._filters, conditions, owners.by_key)
        selects = bool(self._filters.q or self._filters.state or self._filters.health)
        known, found, runs = {}, 0, []
        looks = 0
        for service in services:
            for run in service.runs:
                if selects:
                    _, matching = known[id(run)] = self._known.get(id(run)) or (run, tuple(filter(matches, run)))
                else:
                    matching = run
                if matching:
                    runs.append(matching)
                    found += len(matching)
                looks += 1
                if looks % _LOOKS_BETWEEN == 0:
                    await slices.breathe()
        self._known = known
        last = max(1, -(-found // ROWS_OF_A_PAGE))
        number = min(self._filters.page, last)
        first = (number - 1) * ROWS_OF_A_PAGE
        return Page(tuple(_cut(runs, first, ROWS_OF_A_PAGE)), found, all_, number, last)

    def _services(self, services: Mapping[str, Service]) -> list[Service]:
        if not self._filters.service:
            return list(services.values())
        service = services.get(self._filters.service)
        return [] if service is None else [service]


def _cut(runs: list[tuple[Backend, ...]], first: int, most: int) -> list[Backend]:
    """Return up to `most` backends of `runs`, from the one at `first` on."""
    cut: list[Backend] = []
    for run in runs:
        if first >= len(run):
            first -= len(run)
            continue
        cut += islice(run, first, first + most - len(cut))
        first = 0
        if len(cut) >= most:
            break
    return cut
