"""What a reader of the page looks for: parsed from the query of the URL, and written back. Pure."""

from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple
from urllib.parse import urlencode

from discovery.model import Backend, State

STATES = ("active", "draining", "weight-zero", "rejected")
"""The states that can be asked for. No backend is rejected: what is has a section of its own."""
HEALTHS = ("well", "down", "unresolved", "held")
"""The healths that can be asked for."""
ROWS_OF_A_PAGE = 100
"""Backends that a page shows: a person reads no more at once, and the core renders them in a few milliseconds."""
CHANGES = (25, 100, 500)
"""Changes that a timeline may show."""
_LONGEST = 200
"""Characters of a text that is looked for."""
_MOST_PAGES = 1_000_000
"""The highest number of a page: a number beyond has too many digits for an URL."""


class Filters(NamedTuple):
    """The rows that a reader wants to see. An empty text selects everything.

    `q` is a text that a key, an address, an owner, a label or a reason contains, in any case; `service` is the whole
    name of a service; `state` is one of STATES, `health` one of HEALTHS. `page` counts from 1. `changes` is the number
    of changes in the timeline. `panel` is what is shown in detail: `fleet`, `consumers/NAME` or `providers/NAME`.
    """

    q: str = ""
    service: str = ""
    state: str = ""
    health: str = ""
    page: int = 1
    changes: int = CHANGES[0]
    panel: str = ""

    @property
    def query(self) -> str:
        """The query of an URL that has these filters, without the question mark; empty for the page itself."""
        default = Filters()
        return urlencode({name: value for name, value in self._asdict().items() if value != getattr(default, name)})

    @property
    def selects(self) -> bool:
        """Whether fewer than all backends are wanted."""
        return bool(self.q or self.service or self.state or self.health)

    def finds(self, *texts: str) -> bool:
        """Whether one of `texts` contains the text that is looked for."""
        if not self.q:
            return True
        wanted = self.q.lower()
        return any(wanted in text.lower() for text in texts)

    def finds_key(self, key: str, *texts: str) -> bool:
        """Whether a record with this `key` and these other `texts` is wanted, as far as these tell."""
        return (not self.service or key.partition("/")[0] == self.service) and self.finds(key, *texts)


class Conditions(NamedTuple):
    """The keys of backends that are not in order: down in the data plane, of an unknown host name, held."""

    down: Collection[str] = frozenset()
    unresolved: Collection[str] = frozenset()
    held: Collection[str] = frozenset()


def filters_of(query: Mapping[str, str]) -> Filters:
    """Return the filters of a query. What is no filter counts as missing: an old link still shows the page."""
    state, health = query.get("state", ""), query.get("health", "")
    changes = _number(query.get("changes", ""))
    return Filters(
        q=query.get("q", "").strip()[:_LONGEST],
        service=query.get("service", "").strip()[:_LONGEST],
        state=state if state in STATES else "",
        health=health if health in HEALTHS else "",
        page=min(max(1, _number(query.get("page", ""))), _MOST_PAGES),
        changes=changes if changes in CHANGES else CHANGES[0],
        panel=query.get("panel", "")[:_LONGEST],
    )


def predicate(filters: Filters, conditions: Conditions, owners: Mapping[str, str | None]) -> Callable[[Backend], bool]:
    """Return the function that tells whether a backend of a wanted service is wanted. `owners` are by key."""
    wanted, state, keys = filters.q.lower(), filters.state, _keys(filters.health, conditions)
    well = filters.health == "well"

    def matches(each: Backend) -> bool:
        if state and _state(each) != state:
            return False
        if keys is not None and (each.key in keys) is well:
            return False
        return not wanted or wanted in _text(each, owners)

    return matches


def _keys(health: str, conditions: Conditions) -> Collection[str] | None:
    match health:
        case "":
            return None
        case "down":
            return conditions.down
        case "unresolved":
            return conditions.unresolved
        case "held":
            return conditions.held
    return {*conditions.down, *conditions.unresolved, *conditions.held}


def _state(backend: Backend) -> str:
    if backend.state is not State.ACTIVE:
        return "draining"
    return "active" if backend.weight else "weight-zero"


def _text(backend: Backend, owners: Mapping[str, str | None]) -> str:
    """Return the text of a backend in which is looked, in lower case."""
    key = backend.key
    text = f"{key}\n{backend.address}"
    if owner := owners.get(key):
        text += f"\n{owner}"
    if backend.labels:
        text += "".join(f"\n{name}={value}" for name, value in backend.labels.items())
    return text.lower()


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) <= len(str(_MOST_PAGES)) else 0
