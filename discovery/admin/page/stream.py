"""The stream of changes to the readers of the page, by server-sent events. Nothing is done without readers.

Views with equal filters are painted once, and their readers get the same bytes. A reader that is slow gets what is
newest when it is ready for it, and what it has missed only in its last form.
"""

import asyncio
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from typing import Any, NamedTuple

import structlog

from discovery.admin.page.facts import Facts
from discovery.admin.page.filters import Filters
from discovery.admin.page.matching import Slices
from discovery.admin.page.painting import Painter, Picture, View
from discovery.admin.waiters import Waiters
from discovery.errors import describe

MOST_VIEWS = 16
"""Views of one reader: a browser's tabs."""


class Pace(NamedTuple):
    """How often pictures are painted.

    `least` is how many seconds are between two pictures at least: five updates in a second. `look` is after how many
    seconds one is painted unasked, for what nobody tells of, as a check's outcome. `share` is the share of a processor
    that painting may take: a picture that takes longer is painted less often.
    """

    least: float = 0.2
    look: float = 1.0
    share: float = 0.03


class Reader:
    """A client of the stream, with its views and what it has got."""

    def __init__(self, views: Iterable["_Watched"]) -> None:
        """It has got nothing yet."""
        self._sent: dict[_Watched, int] = dict.fromkeys(views, 0)
        self._news = asyncio.Event()
        self._news.set()

    @property
    def views(self) -> list[str]:
        """The queries of its views, in the order in which it asked for them, as the messages name them."""
        return [each.view.filters.query for each in self._sent]

    def tell(self) -> None:
        """Wake the reader: there may be news."""
        self._news.set()

    async def wait(self, seconds: float) -> bool:
        """Wait for news, `seconds` at most; return whether there are any."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._news.wait()
        return self._news.is_set()

    def take(self) -> Iterator[bytes]:
        """Yield the messages of what the reader has not got yet; each counts as sent when the next is asked for."""
        self._news.clear()
        for watched, sent in self._sent.items():
            if watched.version > sent:
                version = watched.version
                yield watched.message(sent)
                self._sent[watched] = version


class _Watched:
    """A view that readers look at: its picture, and in which version each element changed last."""

    def __init__(self, view: View) -> None:
        self.view = view
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
        self._painting: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._news = False
        self._log = structlog.get_logger("discovery.admin.page")
        self.cost = 0.0
        """Seconds of a processor that painting has taken so far."""

    @property
    def readers(self) -> int:
        """The number of readers."""
        return len({reader for watched in self._views.values() for reader in watched.readers})

    @contextmanager
    def reader(self, wanted: Iterable[Filters]) -> Iterator[Reader]:
        """A reader of these views, who is told of news until the end of the block."""
        views = [self._views.get(each) or _Watched(self._painter.view(each)) for each in wanted]
        reader = Reader(views)
        for each in views:
            self._views[each.view.filters] = each
            each.readers.add(reader)
        self._wake.set()
        if self._painting is None:
            self._painting = asyncio.create_task(self._paint(), name="live page")
        try:
            yield reader
        finally:
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
        for watched in self._views.values():
            for reader in watched.readers:
                reader.tell()

    async def _paint(self) -> None:
        listening = self._waiters.listening(self._tell) if self._waiters is not None else nullcontext()
        earliest = look = 0.0
        with listening:
            while True:
                self._wake.clear()
                now = time.monotonic()
                due = earliest if self._news else look
                fresh = [each for each in self._views.values() if each.version == 0]
                if fresh:
                    earliest = max(earliest, now) + await self._paint_all(fresh) / self._pace.share
                elif now >= due:
                    self._news = False
                    cost = await self._paint_all([*self._views.values()])
                    earliest = now + max(self._pace.least, cost / self._pace.share)
                    look = max(earliest, now + self._pace.look)
                else:
                    with suppress(TimeoutError):
                        async with asyncio.timeout(due - now):
                            await self._wake.wait()

    async def _paint_all(self, views: Iterable[_Watched]) -> float:
        """Paint these views, and wake those of their readers who have news. Return the seconds that it has cost."""
        slices = Slices()
        try:
            facts = self._facts()
            for each in views:
                if each.take(await self._painter.paint(each.view, facts, slices)):
                    for reader in each.readers:
                        reader.tell()
        except Exception as error:  # noqa: BLE001 - a fault of the page must not end the page
            self._log.error("the live page cannot be painted, trying again", reason=describe(error), exc_info=error)
            await asyncio.sleep(self._pace.look)
        cost = slices.end()
        self.cost += cost
        return cost

    def _tell(self) -> None:
        self._news = True
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
