"""The stream of changes to the readers of the page, by server-sent events. Nothing is done without readers.

Views with equal filters are painted once, and their readers get the same bytes. A reader that is slow gets what is
newest when it is ready for it, and what it has missed only in its last form.
"""

import asyncio
import json
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from typing import Any

import structlog

from discovery.admin.page.facts import Facts
from discovery.admin.page.filters import Filters
from discovery.admin.page.matching import Slices
from discovery.admin.page.pacing import UPDATES, Pace, Painted, due, in_turn, parts
from discovery.admin.page.painting import Painter, Picture, View
from discovery.admin.waiters import Waiters
from discovery.errors import describe

MOST_VIEWS = 16
"""Views of one reader: a browser's tabs."""
MOST_DISTINCT = 256
"""Different views of all readers at a time: each takes up to about 2 MB of memory, and people mostly share one."""


class Reader:
    """A client of the stream, with its views and the events that were sent. An update has what is new in its views."""

    def __init__(self, views: Iterable["_Watched"], least: float) -> None:
        """It has got nothing yet, and gets `UPDATES` in that many times `least` seconds at most."""
        self._sent: dict[_Watched, int] = dict.fromkeys(views, 0)
        self._window = UPDATES * least
        self._taken: deque[float] = deque(maxlen=UPDATES)
        self._later: asyncio.TimerHandle | None = None
        self._news = asyncio.Event()
        self._news.set()

    @property
    def views(self) -> list[str]:
        """The queries of its views, in the order in which it asked for them, as the messages name them."""
        return [each.view.filters.query for each in self._sent]

    @property
    def watched(self) -> "Collection[_Watched]":
        """Its views."""
        return self._sent.keys()

    def tell(self) -> None:
        """Wake the reader: there may be news. If it has got as many updates as may be, it wakes later.

        The first picture of a view does not wait.
        """
        if (pause := self._pause()) <= 0 or any(each.version and not sent for each, sent in self._sent.items()):
            self.wake()
        elif self._later is None:
            self._later = asyncio.get_running_loop().call_later(pause, self.wake)

    def wake(self) -> None:
        """Wake the reader now."""
        self.end()
        self._news.set()

    def end(self) -> None:
        """Wake the reader no more for what it has been told."""
        if self._later is not None:
            self._later.cancel()
            self._later = None

    async def wait(self, seconds: float) -> bool:
        """Wait for news, `seconds` at most; return whether there are any."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._news.wait()
        return self._news.is_set()

    def take(self) -> Iterator[bytes]:
        """Yield the messages of what the reader has not got yet; each counts as sent when the next is asked for."""
        if not self._news.is_set():
            return
        self._news.clear()
        begun, waits, takes, later = time.monotonic(), self._pause() > 0, False, False
        for watched, sent in self._sent.items():
            if watched.version <= sent:
                continue
            if waits and sent:
                later = True
                continue
            if not takes:
                takes = True
                self._taken.append(begun)
            version = watched.version
            yield watched.message(sent)
            self._sent[watched] = version
        if later:
            self.tell()

    def _pause(self) -> float:
        """Return the seconds until the reader may have another update."""
        return self._taken[0] + self._window - time.monotonic() if len(self._taken) == UPDATES else 0.0


class _Watched:
    """A view that readers look at: its picture, and in which version each element changed last."""

    def __init__(self, view: View) -> None:
        self.view = view
        self.painted = Painted(time.monotonic())
        self.readers: set[Reader] = set()
        self.version = 0
        self._parts: dict[str, tuple[int, str]] = {}
        self._rows: dict[str, tuple[int, dict[str, tuple[int, str]]]] = {}  # the version is that of the order
        self._messages: dict[int, bytes] = {}

    def take(self, picture: Picture) -> bool:
        """Take in a picture; return whether it differs from the one before."""
        version = self.version + 1
        parts, changed = _versions(self._parts, picture.parts, version)
        rows = {}
        for id_, table in picture.rows.items():
            order, before = self._rows.get(id_, (version, {}))
            entries, differs = _versions(before, table, version)
            if list(entries) != list(before):
                order, differs = version, True
            rows[id_] = order, entries
            changed = changed or differs
        self._parts, self._rows = parts, rows
        if changed:
            self.version = version
            self._messages = {}
        return changed

    def message(self, since: int) -> bytes:
        """Return the event with everything that has changed after the version `since`."""
        known = self._messages.get(since)
        if known is None:
            known = self._messages[since] = event(self._document(since))
        return known

    def _document(self, since: int) -> dict[str, Any]:
        rows = {}
        for id_, (order, entries) in self._rows.items():
            table: dict[str, Any] = {}
            if order > since:
                table["order"] = list(entries)
            if html := {row: text for row, (version, text) in entries.items() if version > since}:
                table["html"] = html
            if table:
                rows[id_] = table
        return {
            "view": self.view.filters.query,
            "full": since == 0,
            "parts": {id_: html for id_, (version, html) in self._parts.items() if version > since},
            "rows": rows,
        }


class Stream:
    """Paints the views that are looked at, and wakes their readers. For one event loop."""

    def __init__(
        self, facts: Callable[[], Facts], painter: Painter, waiters: Waiters | None = None, pace: Pace | None = None
    ) -> None:
        """Prepare: nothing is done before the first reader. `waiters` are told when something happens."""
        self._facts = facts
        self._painter = painter
        self._waiters = waiters
        self._pace = pace or Pace()
        self._views: dict[Filters, _Watched] = {}
        self._readers: set[Reader] = set()
        self._painting: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._told = 0
        self._log = structlog.get_logger("discovery.admin.page")
        self.cost = 0.0
        """Seconds of a processor that painting has taken so far."""

    @property
    def readers(self) -> int:
        """The number of readers."""
        return len(self._readers)

    def has_room(self, wanted: Iterable[Filters]) -> bool:
        """Whether a reader may have these views: views that others look at take no room of their own."""
        return len(self._views.keys() | set(wanted)) <= MOST_DISTINCT

    @contextmanager
    def reader(self, wanted: Iterable[Filters]) -> Iterator[Reader]:
        """A reader of these views, who is told of news until the end of the block."""
        views = [self._views.get(each) or _Watched(self._painter.view(each)) for each in wanted]
        reader = Reader(views, self._pace.least)
        self._readers.add(reader)
        for each in views:
            self._views[each.view.filters] = each
            each.readers.add(reader)
        self._wake.set()
        if self._painting is None:
            self._painting = asyncio.create_task(self._paint(), name="live page")
        try:
            yield reader
        finally:
            reader.end()
            self._readers.discard(reader)
            for each in views:
                each.readers.discard(reader)
                if not each.readers:
                    self._views.pop(each.view.filters, None)
            if not self._views and self._painting is not None:
                self._painting.cancel()
                self._painting = None

    def close(self) -> None:
        """Stop painting, and wake all readers, who look whether it is over."""
        if self._painting is not None:
            self._painting.cancel()
            self._painting = None
        for reader in self._readers:
            reader.wake()

    async def _paint(self) -> None:
        listening = self._waiters.listening(self._tell) if self._waiters is not None else nullcontext()
        with listening:
            while True:
                self._wake.clear()
                now, readers = time.monotonic(), [each.watched for each in self._readers]
                shares = parts(readers)
                times = {each: due(each.painted, self._pace, part, self._told) for each, part in shares.items()}
                if views := in_turn(readers, times, now):
                    await self._paint_some(views)
                else:
                    with suppress(TimeoutError):
                        async with asyncio.timeout(min(times.values(), default=now + self._pace.look) - now):
                            await self._wake.wait()

    async def _paint_some(self, views: Iterable[_Watched]) -> None:
        """Paint these views, or the first of them if all take too long for a round.

        A reader with news is woken once, when all of its views among them are painted.
        """
        begun, told, slices = time.monotonic(), self._told, Slices()
        try:
            facts = self._facts()
            await self._painter.paint_common(facts, slices)
        except Exception as error:  # noqa: BLE001 - a fault of the page must not end the page
            self._fail(error)
            await asyncio.sleep(self._pace.look)
            return
        shared = spent = slices.end()
        left = Counter(reader for each in views for reader in each.readers)
        news: set[Reader] = set()
        costs: dict[_Watched, float] = {}
        for each in views:
            slices = Slices()
            try:
                if each.take(await self._painter.paint(each.view, facts, slices)):
                    news |= each.readers
                each.painted = Painted(begun, told=told)
            except Exception as error:  # noqa: BLE001 - a fault of one view must not end the others
                self._fail(error)
                each.painted = Painted(begun + self._pace.look)
            costs[each] = slices.end()
            spent += costs[each]
            left.subtract(each.readers)
            for reader in [reader for reader in each.readers & news if left[reader] <= 0]:
                news.discard(reader)
                reader.tell()
            if spent > self._pace.round:
                break
        for each, cost in costs.items():
            each.painted = each.painted._replace(cost=cost + shared / len(costs))
        for reader in news:
            reader.tell()
        self.cost += spent

    def _fail(self, error: Exception) -> None:
        self._log.error("the live page cannot be painted, trying again", reason=describe(error), exc_info=error)

    def _tell(self) -> None:
        self._told += 1
        self._wake.set()


def event(document: Mapping[str, Any], name: str = "") -> bytes:
    """Return a server-sent event with a JSON document; `name` is its type."""
    text = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
    return (f"event: {name}\n" if name else "").encode() + b"data: " + text.encode(errors="replace") + b"\n\n"


def _versions(
    before: Mapping[str, tuple[int, str]], html: Mapping[str, str], version: int
) -> tuple[dict[str, tuple[int, str]], bool]:
    """Return each HTML with the version in which it changed, and whether any did, came or went."""
    versions = {}
    changed = len(before) != len(html)
    for id_, text in html.items():
        known = before.get(id_)
        if known is None or known[1] != text:
            known = (version, text)
            changed = True
        versions[id_] = known
    return versions, changed
