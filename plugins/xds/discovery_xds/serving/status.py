"""The state of clients: for people, for metrics and for health."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from discovery import Sample
from discovery_xds.protocol.catalog import Catalog, Kind
from discovery_xds.protocol.stream import Stream

MOST_NODES = 1000
"""Nodes that are shown one by one; a document of more is no longer read by people."""
_MOST_NAMED = 5
"""Nodes that are named in a message, which is one line."""
_MOST_SHOWN = 20
"""Rejected resources that are shown of one node."""


class Counts:
    """Counters of the server since its start, by kind of resource. Read from any thread."""

    def __init__(self) -> None:
        """Begin at zero."""
        self.pushes: Counter[Kind] = Counter()
        self.acks: Counter[Kind] = Counter()
        self.nacks: Counter[Kind] = Counter()


def samples(counts: Counts, streams: Iterable[Stream], revision: int | None) -> Iterable[Sample]:
    """Yield the consumer's metrics."""
    described = (
        ("pushes", counts.pushes, "Responses sent to clients."),
        ("acks", counts.acks, "Responses that clients have applied."),
        ("nacks", counts.nacks, "Responses that clients have rejected."),
    )
    for name, counter, text in described:
        for kind in Kind:
            yield Sample(name, counter[kind], {"kind": kind.label}, help=text)
    variants: Counter[str] = Counter(sotw=0, delta=0)
    behind = rejecting = 0
    for each in streams:
        variants[each.protocol] += 1
        rejecting += bool(each.rejections)
        behind += revision is not None and each.live_revision != revision
    for variant, number in variants.items():
        yield Sample("streams", number, {"protocol": variant}, "gauge", "Open streams of clients.")
    yield Sample("streams_behind", behind, {}, "gauge", "Streams whose client has not applied the latest revision.")
    yield Sample("streams_rejecting", rejecting, {}, "gauge", "Streams whose client has rejected a resource.")


def document(
    catalog: Catalog | None, clients: Iterable[tuple[Stream, str]], problems: Mapping[str, str]
) -> Mapping[str, Any]:
    """Return the state of the server as a document of JSON values. `clients` are streams and their peers' addresses."""
    every = sorted(clients, key=lambda each: (each[0].node_id, each[1]))
    return {
        "revision": catalog.revision if catalog is not None else None,
        "resources": {kind.label: len(catalog.of(kind)) if catalog is not None else 0 for kind in Kind},
        "nodes": [_node(stream, peer) for stream, peer in every[:MOST_NODES]],
        "more_nodes": max(0, len(every) - MOST_NODES),
        "problems": dict(problems),
    }


def _node(stream: Stream, peer: str) -> dict[str, Any]:
    """Return the state of a client as a document of JSON values."""
    rejected = stream.rejections
    return {
        "node": stream.node_id,
        "cluster": stream.node_cluster,
        "user_agent": stream.user_agent,
        "peer": peer,
        "protocol": stream.protocol,
        "live_revision": stream.live_revision,
        "up_to_date": stream.is_settled,
        "subscriptions": {
            kind.label: {
                "wildcard": each.wildcard,
                "names": len(each.names),
                "has": len(each.known),
                "waits_for_answer": each.unconfirmed is not None,
            }
            for kind, each in sorted(stream.subscriptions.items())
        },
        "rejected": dict(list(rejected.items())[:_MOST_SHOWN]),
    }


def problems_of(streams: Iterable[Stream]) -> Mapping[str, str]:
    """Return, for each resource that clients reject, the clients and the reason of the first client."""
    rejecting: dict[str, list[str]] = {}
    reasons: dict[str, str] = {}
    for each in streams:
        for what, reason in each.rejections.items():
            reasons.setdefault(what, reason)
            rejecting.setdefault(what, []).append(each.node_id or "a client without a name")
    return {what: f"rejected by {_some(sorted(nodes))}: {reasons[what]}" for what, nodes in sorted(rejecting.items())}


def _some(nodes: list[str]) -> str:
    more = len(nodes) - _MOST_NAMED
    return f"{', '.join(nodes[:_MOST_NAMED])} and {more} more" if more > 0 else ", ".join(nodes)
