"""Surveys the fleet when somebody looks: lists the records, and asks all daemons at once, within bounds."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from itertools import islice
from typing import NamedTuple

from discovery.errors import DiscoveryError, RecordError
from discovery.fleet.announcement import SERVICE, Announcement, announcement_of
from discovery.fleet.asking import Answered
from discovery.model import Snapshot

FRESH_SECONDS = 3.0
"""Seconds for which a survey is told again: a page that many people look at costs the others little."""
_LIST_SECONDS = 5.0
"""Seconds for the listing of the records: a person waits."""
_ALL_SECONDS = 8.0
"""Seconds for all daemons together: the command that asks waits for 10 s."""
MOST_ASKED = 256
"""Daemons that are asked in a survey."""
MOST_LISTED = 1000
"""Daemons that are listed: a bound on the answer, whatever somebody writes into the registry."""
_AT_ONCE = 16
"""Daemons that are asked at the same time."""
_MOST_INVALID = 100
"""Invalid records that are told one by one."""


class Member(NamedTuple):
    """A daemon of the fleet: as announced, and what it has answered."""

    announcement: Announcement
    answered: Answered


class Surveyed(NamedTuple):
    """The fleet at the time `at` (monotonic). `invalid` has reasons by key.

    `reason` is why the records could not be listed. `more` and `more_invalid` are the numbers of records that are not
    told one by one.
    """

    members: tuple[Member, ...] = ()
    more: int = 0
    invalid: Mapping[str, str] = {}
    more_invalid: int = 0
    reason: str | None = None
    at: float = 0.0


class Survey:
    """Keeps the last survey for a few seconds. For one event loop."""

    def __init__(
        self,
        read: Callable[[float], Awaitable[Snapshot]],
        ask: Callable[[Announcement, Collection[str]], Awaitable[Mapping[str, Answered]]],
        own_id: str,
        own: Callable[[], Answered],
        *,
        all_seconds: float = _ALL_SECONDS,
        fresh_seconds: float = FRESH_SECONDS,
    ) -> None:
        """Prepare. `read` returns the records within seconds; `own` answers for this daemon, whose id is `own_id`.

        `ask` asks at the address of an announcement, and returns the answer by each of some ids.
        """
        self._read = read
        self._ask = ask
        self._own_id = own_id
        self._own = own
        self._all_seconds = all_seconds
        self._fresh_seconds = fresh_seconds
        self._last: Surveyed | None = None
        self._turn = asyncio.Lock()
        self._asked: dict[str, tuple[bool, float]] = {}  # by id: whether the daemon answered, and when

    async def survey(self) -> Surveyed:
        """Return the fleet as it is, or was at most `fresh_seconds` ago. All who ask meanwhile wait for one survey."""
        async with self._turn:
            if self._last is None or time.monotonic() - self._last.at > self._fresh_seconds:
                self._last = await self._made()
            return self._last

    async def _made(self) -> Surveyed:
        try:
            listed = members_in(await self._read(_LIST_SECONDS))
        except DiscoveryError as error:
            return Surveyed(reason=str(error), at=time.monotonic())
        answers = await self._answers(listed.announcements)
        members = tuple(Member(each, answers[each.id]) for each in listed.announcements)
        return Surveyed(members, listed.more, listed.invalid, listed.more_invalid, None, time.monotonic())

    async def _answers(self, announcements: Iterable[Announcement]) -> dict[str, Answered]:
        """Ask all: first those that answered last time, then those that have waited longest.

        So records that never answer, however many, delay no daemon that does, and in a while each is asked.
        """
        others = sorted((each for each in announcements if each.id != self._own_id), key=self._place)
        # An address is asked once, however many records name it: each is a request less for whoever is there.
        at: dict[tuple[str, str, int, str], list[Announcement]] = {}
        for each in others:
            at.setdefault((each.scheme, each.host, each.port, each.machine), []).append(each)
        groups = list(at.values())
        answers = {self._own_id: self._own()}  # whatever the record of it says
        surplus = Answered(None, f"not asked: {MOST_ASKED} others were")
        answers |= {each.id: surplus for group in groups[MOST_ASKED:] for each in group}
        limit = asyncio.Semaphore(_AT_ONCE)

        async def ask(group: list[Announcement]) -> None:
            async with limit:
                told = await self._ask(group[0], [each.id for each in group])
                answers.update(told)
                now = time.monotonic()
                self._asked.update((id_, (answered.told is not None, now)) for id_, answered in told.items())

        asked = groups[:MOST_ASKED]
        tasks = [asyncio.ensure_future(ask(group)) for group in asked]
        try:
            if tasks:
                await asyncio.wait(tasks, timeout=self._all_seconds)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        late = Answered(None, f"not asked in time: all have {self._all_seconds:g} s")
        self._asked = {each.id: self._asked[each.id] for each in others if each.id in self._asked}
        return {**{each.id: late for group in asked for each in group}, **answers}

    def _place(self, announcement: Announcement) -> tuple[bool, float]:
        answered, at = self._asked.get(announcement.id, (False, 0.0))
        return not answered, at


class Listed(NamedTuple):
    """The records of daemons: the valid ones in the order of machines, and the reasons of others by key.

    `more` and `more_invalid` count those beyond the bounds.
    """

    announcements: tuple[Announcement, ...]
    more: int
    invalid: Mapping[str, str]
    more_invalid: int


def members_in(snapshot: Snapshot) -> Listed:
    """Return the daemons among the records of a registry's prefix. Pure."""
    valid: list[tuple[int, Announcement]] = []
    invalid: dict[str, str] = {}
    for each in snapshot.rejected:
        if each.key.startswith(f"{SERVICE}/") and each.field is None:
            invalid[each.key] = each.reason
    service = snapshot.services.get(SERVICE)
    for backend in service.backends if service is not None else ():
        try:
            valid.append((backend.created or 0, announcement_of(backend)))
        except RecordError as error:
            invalid[backend.key] = str(error)
    # The oldest records are kept: whoever writes very many pushes nobody out.
    kept = [announcement for _, announcement in sorted(valid, key=lambda each: each[0])[:MOST_LISTED]]
    kept.sort(key=lambda each: (each.machine, each.host, each.port, each.id))
    told = dict(islice(sorted(invalid.items()), _MOST_INVALID))
    return Listed(tuple(kept), len(valid) - len(kept), told, len(invalid) - len(told) + snapshot.more_rejected)
