"""Numeric ids of the servers of a section, by name."""

from collections.abc import Iterable

from discovery_haproxy.rendering.server_ids import distinct_ids, own_id


def ids_by_name(names: Iterable[str]) -> dict[str, int]:
    """Return the id of each of the names of a section."""
    ordered = tuple(names)
    return dict(zip(ordered, distinct_ids(ordered, tuple(map(own_id, ordered))), strict=True))
