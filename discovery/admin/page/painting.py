"""Pictures of the daemon for the readers of the page: HTML by the ids of elements, rendered anew where data changed.

What all readers see alike is rendered once. The work is on the core's loop, in slices of a few milliseconds.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, Protocol
from urllib.parse import quote

from discovery.admin.page.ages import Ages
from discovery.admin.page.facts import Facts
from discovery.admin.page.filters import Filters
from discovery.admin.page.flow import Marks, flow
from discovery.admin.page.matching import Matching, Slices
from discovery.admin.page.timeline import Timeline
from discovery.admin.page.view import (
    Table,
    backend_row,
    consumer_rows,
    held_table,
    overview,
    provider_rows,
    registry_view,
    rejected_table,
)

Rows = Mapping[str, str]
"""The HTML of the rows of a table by their ids, in order."""


class Renders(Protocol):
    """Renders a part of the page."""

    def part(self, name: str, *values: Any) -> str:
        """Return the HTML of the part `name` for these values."""


class Picture(NamedTuple):
    """The HTML of parts by the ids of their elements, and of rows by the ids of the elements that they are in."""

    parts: Mapping[str, str]
    rows: Mapping[str, Rows]


class _Memo:
    """Renders a part if its values are not those of the last time."""

    def __init__(self, renderer: Renders) -> None:
        self._renderer = renderer
        self._known: dict[str, tuple[tuple[Any, ...], str]] = {}
        self._used: dict[str, tuple[tuple[Any, ...], str]] = {}

    def part(self, id_: str, name: str, *values: Any) -> str:
        known = self._known.get(id_) or self._used.get(id_)
        if known is None or known[0] != values:
            known = (values, self._renderer.part(name, *values))
        self._used[id_] = known
        return known[1]

    def turn(self) -> None:
        """Forget the parts that were not asked for since the last call."""
        self._known, self._used = self._used, {}


class View:
    """What the readers of some filters see, from one picture to the next."""

    def __init__(self, filters: Filters, renderer: Renders) -> None:
        """Begin without a picture."""
        self.filters = filters
        self.matching = Matching(filters)
        self.memo = _Memo(renderer)


class Painter:
    """Paints views of the daemon's state. For one event loop."""

    def __init__(self, renderer: Renders) -> None:
        """Begin without a picture."""
        self._renderer = renderer
        self._common = _Memo(renderer)
        self._facts: Facts | None = None
        self._shared: Picture = Picture({}, {})
        self._backends = 0
        self._ages = Ages()
        self._marks = Marks()
        self._timeline = Timeline()
        self._turn = asyncio.Lock()

    def view(self, filters: Filters) -> View:
        """Return a new view."""
        return View(filters, self._renderer)

    async def paint(self, view: View, facts: Facts, slices: Slices) -> Picture:
        """Return the picture of `facts` in a view. What is common to all views is painted once for the same facts."""
        async with self._turn:
            await self._paint_shared(facts, slices)
            return await self._paint_view(view, facts, slices)

    async def paint_common(self, facts: Facts, slices: Slices) -> None:
        """Paint what is common to all views, unless the last painting was of the same facts."""
        async with self._turn:
            await self._paint_shared(facts, slices)

    async def _paint_shared(self, facts: Facts, slices: Slices) -> None:
        if facts is self._facts:
            return
        self._ages.take(facts.changes)
        self._timeline.forget(facts)
        await slices.breathe()
        snapshot, memo = facts.status.snapshot, self._common
        backends = 0 if snapshot is None else sum(map(len, snapshot.services.values()))
        parts = {}
        parts["overview-part"] = memo.part("overview-part", "overview", overview(facts, backends))
        parts["registry-part"] = memo.part("registry-part", "registry", registry_view(facts, backends))
        await slices.breathe()
        parts["flow-part"] = memo.part("flow-part", "flow", flow(facts, self._marks))
        await slices.breathe()
        consumers = consumer_rows(facts)
        table = Table((), 0, len(consumers))
        parts["no-consumers"] = memo.part("no-consumers", "some", "no-consumers", table, "There is no consumer.")
        rows = await _rows(memo, "consumer", consumers, lambda row: row.name, slices)
        memo.turn()
        self._shared = Picture(parts, {"consumer-rows": rows})
        self._facts = facts

    async def _paint_view(self, view: View, facts: Facts, slices: Slices) -> Picture:
        filters, memo = view.filters, view.memo
        page = await view.matching.page(facts.status.snapshot, facts.conditions, facts.status.owners, slices)
        parts, rows = dict(self._shared.parts), dict(self._shared.rows)
        counts = page._replace(rows=())
        parts["found-part"] = memo.part("found-part", "found", counts, filters)
        parts["pages-part"] = memo.part("pages-part", "pages", counts, filters)
        backends = [backend_row(each, facts, self._ages) for each in page.rows]
        await slices.breathe()
        rows["backend-rows"] = await _rows(memo, "backend", backends, lambda row: row.key, slices)
        providers = provider_rows(facts, filters)
        await slices.breathe()
        table = Table((), 0, len(providers))
        parts["no-providers"] = memo.part("no-providers", "some", "no-providers", table, "There is no provider.")
        rows["provider-rows"] = await _rows(memo, "provider", providers, lambda row: row.name, slices)
        rejected, held = rejected_table(facts, filters), held_table(facts, filters)
        none = "There are no rejected records."
        parts["rejected-part"] = memo.part("rejected-part", "empty", "rejected-part", rejected, none, filters)
        rows["rejected-rows"] = await _rows(
            memo, "rejected", rejected.rows, lambda row: f"{row.key}\n{row.field or ''}", slices
        )
        none = "There are no held records."
        parts["held-part"] = memo.part("held-part", "empty", "held-part", held, none, filters)
        rows["held-rows"] = await _rows(memo, "held", held.rows, lambda row: row.key, slices)
        changes = self._timeline.rows(facts, filters)
        await slices.breathe()
        rows["change-rows"] = await _rows(memo, "change", changes, lambda row: str(row.number), slices)
        memo.turn()
        return Picture(parts, rows)


async def _rows(
    memo: _Memo, name: str, data: Iterable[Any], key: Callable[[Any], str], slices: Slices
) -> dict[str, str]:
    rows = {}
    for each in data:
        id_ = f"{name}-{quote(key(each), safe='')}"
        rows[id_] = memo.part(id_, name, id_, each)
        await slices.breathe()
    return rows
