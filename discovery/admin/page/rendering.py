"""Data to HTML by the templates of this package: every value is escaped. Loaded with the first page that is read."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from importlib.resources import files
from itertools import islice
from typing import Any
from urllib.parse import quote

from jinja2 import DictLoader, Environment, StrictUndefined
from markupsafe import Markup

from discovery.admin.page.filters import CHANGES, HEALTHS, STATES, Filters
from discovery.admin.page.matching import Page

MOST_ITEMS = 100
"""Items of a list or an object of a plugin's that are shown: a panel is for a look, `/api` has everything."""
_LONGEST = 500
"""Characters of a text of a plugin's that are shown, for the same reason."""
_AROUND = 2
"""Numbers of pages before and behind the present one that are links."""
_MOST_COLUMNS = 8
"""Columns of a table that is made of a plugin's list of objects: with more it is no table."""

SECTIONS = (
    ("overview", "Overview"),
    ("flow", "Flow"),
    ("services", "Services"),
    ("consumers", "Consumers"),
    ("providers", "Providers"),
    ("rejected", "Rejected records"),
    ("held", "Held records"),
    ("registry", "Registry"),
    ("timeline", "Timeline"),
    ("fleet", "Fleet"),
    ("plugins", "Plugins"),
)
"""The ids and headings of the page's sections."""
_STATES = {"active": "active", "draining": "draining", "weight-zero": "weight 0", "rejected": "rejected"}
_HEALTHS = {"well": "no fault known", "down": "down", "unresolved": "unresolved name", "held": "held"}
_TONES = {
    **dict.fromkeys(("ok", "active", "connected", "passing", "answers"), "good"),
    **dict.fromkeys(("degraded", "draining", "held", "unresolved"), "warn"),
    **dict.fromkeys(("not checked yet", "not followed", "not asked"), "warn"),
    **dict.fromkeys(("failing", "down", "not connected", "rejected", "unreachable", "not serving"), "bad"),
}
_GLYPHS = {"good": "●", "warn": "▲", "bad": "✕", "plain": "○"}
_MARKS = {"+": "added", "~": "updated", "-": "removed", "!": "rejected"}


class Renderer:
    """Renders parts and pages."""

    def __init__(self, static: Mapping[str, str]) -> None:
        """Load the templates. `static` are the paths of the static files, by name."""
        folder = files(__package__).joinpath("templates")
        names = ("macros.html.j2", "page.html.j2")
        environment = Environment(
            loader=DictLoader({name: folder.joinpath(name).read_text("utf-8") for name in names}),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        environment.filters |= _FILTERS
        self._macros = environment.get_template("macros.html.j2").module
        self._page = environment.get_template("page.html.j2")
        self._static = dict(static)

    def part(self, name: str, *values: Any) -> str:
        """Return the HTML of the macro `name` for these values."""
        return str(getattr(self._macros, name)(*values)).strip()

    def page(
        self,
        filters: Filters,
        parts: Mapping[str, str],
        rows: Mapping[str, Mapping[str, str]],
        panels: Sequence[tuple[str, str]],
        panel: str,
        now: float,
        *,
        by_session: bool = False,
    ) -> str:
        """Return a page of these parts and rows, which are HTML, with links to `panels`, of which one may be open.

        `by_session`: the reader has logged in, and may log out.
        """
        return self._page.render(
            filters=filters,
            parts={name: Markup(html) for name, html in parts.items()},  # noqa: S704 - the macros have made it
            rows={name: Markup("".join(each.values())) for name, each in rows.items()},  # noqa: S704 - likewise
            panels=panels,
            panel=Markup(panel),  # noqa: S704 - likewise
            now=now,
            by_session=by_session,
            sections=SECTIONS,
            static=self._static,
            states=[(each, _STATES[each]) for each in STATES],
            healths=[(each, _HEALTHS[each]) for each in HEALTHS],
            lengths=CHANGES,
        )


def panel_id(path: str) -> str:
    """Return the id of the element of a plugin's panel."""
    return f"panel-{_quoted(path)}"


def _iso(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _clock(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _tone(word: str) -> str:
    return _TONES.get(word, "plain")


def _link(filters: Filters) -> str:
    return f"/?{filters.query}" if filters.query else "/"


def _service_link(service: str) -> str:
    return _link(Filters(service=service))


def _numbers(page: Page) -> Iterator[int]:
    """Yield the numbers of pages that are links; 0 stands for those that are left out."""
    shown = {1, page.last, *range(page.number - _AROUND, page.number + _AROUND + 1)}
    before = 0
    for number in sorted(each for each in shown if 1 <= each <= page.last):
        if number > before + 1:
            yield 0
        yield number
        before = number


def _quoted(text: str) -> str:
    return quote(text, safe="")


def _first_items(told: Mapping[str, Any] | Sequence[Any]) -> Iterable[Any]:
    return islice(told.items() if isinstance(told, Mapping) else told, MOST_ITEMS)


def _beyond(told: Mapping[str, Any] | Sequence[Any]) -> int:
    return max(0, len(told) - MOST_ITEMS)


def _columns(told: Sequence[Any]) -> list[str]:
    """Return the names of the columns of a list of objects with few and like names; none if it is no such list."""
    first = told[0]
    if not isinstance(first, Mapping) or not 0 < len(first) <= _MOST_COLUMNS:
        return []
    names = set(first)
    return list(first) if all(isinstance(each, Mapping) and names == set(each) for each in told[:MOST_ITEMS]) else []


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


_FILTERS: dict[str, Any] = {
    "iso": _iso,
    "clock": _clock,
    "tone": _tone,
    "glyph": lambda word: _GLYPHS[_tone(word)],
    "flow_glyph": lambda word: "" if word == "ok" else f"{_GLYPHS[_tone(word)]} ",
    "link": _link,
    "service_link": _service_link,
    "numbers": _numbers,
    "mark": lambda mark: _MARKS.get(mark, mark),
    "quoted": _quoted,
    "quoted_path": lambda path: quote(path, safe="/"),
    "first_items": _first_items,
    "beyond": _beyond,
    "columns": _columns,
    "short": _short,
}
