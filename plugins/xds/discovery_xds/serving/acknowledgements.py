"""Which clients have applied a resource, have refused it, or have not answered yet: in words."""

from collections import Counter
from collections.abc import Iterable, Iterator

from discovery_xds.protocol.catalog import Catalog, Kind
from discovery_xds.protocol.stream import Stream
from discovery_xds.protocol.subscription import Answer

_MOST_NAMED = 5
"""Clients that are named in a line."""
_MOST_REASONS = 5
"""Reasons of rejections that are told: clients of one program have the same reason."""


def acknowledgements(catalog: Catalog, kind: Kind, name: str, streams: Iterable[Stream]) -> Iterator[str]:
    """Yield what the clients that ask for the resource `name` say of its version in `catalog`; nothing without any."""
    confirmed: Counter[str] = Counter()
    sent: Counter[str] = Counter()
    waiting: Counter[str] = Counter()
    rejecting: dict[str, Counter[str]] = {}
    for each in streams:
        subscription = each.subscriptions.get(kind)
        answer = subscription.answer(catalog, name) if subscription is not None else None
        node = each.node_id or "a client without a name"
        if answer is Answer.CONFIRMED:
            confirmed[node] += 1
        elif answer is Answer.SENT:
            sent[node] += 1
        elif answer is Answer.WAITING:
            waiting[node] += 1
        elif answer is not None:
            rejecting.setdefault(answer, Counter())[node] += 1
    if confirmed:
        yield f"acknowledged by {_named(confirmed)}"
    for reason, nodes in list(rejecting.items())[:_MOST_REASONS]:
        yield f"rejected by {_named(nodes)}, which goes on with what it had: {reason}"
    if len(rejecting) > _MOST_REASONS:
        yield f"rejected for {len(rejecting) - _MOST_REASONS} more reasons"
    if sent:
        yield f"sent to {_named(sent)}, not answered yet"
    if waiting:
        yield f"not sent yet to {_named(waiting)}"


def _named(nodes: Counter[str]) -> str:
    """Return the names of the first clients, each with the number of its streams if it has several."""
    named = [node if count == 1 else f"{node} ({count} streams)" for node, count in sorted(nodes.items())]
    more = len(named) - _MOST_NAMED
    return f"{', '.join(named[:_MOST_NAMED])} and {more} more" if more > 0 else ", ".join(named)
