"""The forms of a part: as configured now, as last accepted, and left out."""

from collections.abc import Mapping
from typing import NamedTuple

from discovery_haproxy.deployment.faults import Part, PartKind

# Forms of a service.
PRESENT = 0
"""Form of each part: as configured now."""
WITH_FORMER_SERVERS = 1
"""The present options, and servers that have left but are named in the user's own lines, in maintenance."""
ACCEPTED = 2
"""The last accepted options, with the present backends."""
ACCEPTED_WITH_FORMER_SERVERS = 3
"""The last accepted options, and in maintenance the servers that have left."""
LEFT_OUT = 4
"""No options and no backends: requests are answered 503 (http), connections are closed (tcp)."""

# Forms of a bind, of the statistics page and of a section; the settings have the first two forms.
EARLIER = 1
"""The last accepted form."""
CLOSED = 2
"""Not opened; a section is left out."""

LAST_FORM = {
    PartKind.SETTINGS: EARLIER,
    PartKind.SERVICE: LEFT_OUT,
    PartKind.BIND: CLOSED,
    PartKind.STATS: CLOSED,
    PartKind.SECTION: CLOSED,
}
Choice = Mapping[Part, int]
"""The form of each part that is not in its present form."""

_STATES = {
    (PartKind.SETTINGS, EARLIER): "kept in their last accepted form",
    (
        PartKind.SERVICE,
        WITH_FORMER_SERVERS,
    ): "served with the servers that its lines name and that have left, in maintenance",
    (PartKind.SERVICE, ACCEPTED): "served with its last accepted options",
    (PartKind.SERVICE, ACCEPTED_WITH_FORMER_SERVERS): "served with its last accepted options and servers",
    (PartKind.SERVICE, LEFT_OUT): "left out",
    (PartKind.BIND, EARLIER): "kept in its last accepted form",
    (PartKind.BIND, CLOSED): "closed",
    (PartKind.STATS, EARLIER): "kept in its last accepted form",
    (PartKind.STATS, CLOSED): "closed",
    (PartKind.SECTION, EARLIER): "kept in its last accepted form",
    (PartKind.SECTION, CLOSED): "left out",
}


def describe_form(part: Part, form: int) -> str:
    """Return what has become of a refused part, for a person."""
    return _STATES[part.kind, form]


class Reason(NamedTuple):
    """The reason why a part is refused. `address` is the address that cannot be bound; None for another reason."""

    text: str
    address: str | None = None
