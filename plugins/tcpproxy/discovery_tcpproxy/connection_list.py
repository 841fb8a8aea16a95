"""Open connections of a daemon: fetched from the admin endpoint, and formatted as rows of a table."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from discovery import DiscoveryError, join_host_port
from discovery.toolkit import printable

HEADER = ("CONSUMER", "LISTENER", "CLIENT", "BACKEND", "ADDRESS", "AGE", "IN", "OUT", "STATE")
_PLUGIN = "tcpproxy"
_UNITS = ("B", "KiB", "MiB", "GiB")


@dataclass(frozen=True, slots=True)
class ConnectionList:
    """Connections as the admin endpoint lists them, each with the name of its consumer.

    `more` is the number of connections that the endpoint does not list.
    """

    connections: tuple[Mapping[str, Any], ...]
    more: int


def fetch_connections(get: Callable[[str], Any], at: str, consumer: str | None) -> ConnectionList:
    """Return the connections of a consumer, or of all for None.

    `get` returns what the daemon at the address `at` answers for a path. Raises DiscoveryError if a request fails.
    """
    try:
        consumers = get("/api/consumers")["consumers"]
        names = [str(each["name"]) for each in consumers if each["plugin"] == _PLUGIN]
        if not names or (consumer is not None and consumer not in names):
            has = f"it has {', '.join(names)}" if names else "it has none of that plugin"
            which = f"no consumer {consumer!r}" if consumer is not None else "no consumer"
            raise DiscoveryError(f"the daemon at {at} has {which} of the plugin {_PLUGIN}; {has}")
        asked = names if consumer is None else [consumer]
        documents = {name: get(f"/api/consumers/{quote(name, safe='')}") for name in asked}
        connections = [
            {"consumer": name, **each} for name, document in documents.items() for each in document["connections"]
        ]
        more = sum(int(document["more_connections"]) for document in documents.values())
    except (LookupError, TypeError, ValueError):
        raise DiscoveryError(
            f"the answer of {at} is not that of a daemon's admin endpoint, or the daemon has another version"
        ) from None
    return ConnectionList(tuple(connections), more)


def rows(connections: Iterable[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Return the cells under `HEADER`, without control characters."""
    return [tuple(map(printable, _cells(each))) for each in connections]


def _cells(each: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        str(each.get("consumer", "")),
        str(each.get("listener", "")),
        _address(each.get("client")),
        str(each.get("backend") or "-"),
        _address(each.get("address")),
        duration(float(each.get("age", 0))),
        size(int(each.get("received", 0))),
        size(int(each.get("sent", 0))),
        str(each.get("state", "")),
    )


def _address(address: Any) -> str:
    """Return host and port; a client of a Unix socket has neither."""
    if not isinstance(address, list) or len(address) < 2:
        return "-"
    host, port = str(address[0]), address[1]
    return join_host_port(host, port)


def duration(seconds: float) -> str:
    """Return a duration in its two largest units: 4.2s, 3m20s, 2h05m, 3d04h."""
    if seconds < 60:
        return f"{seconds:.1f}s"
    minutes, left = divmod(int(seconds), 60)
    if minutes < 60:
        return f"{minutes}m{left:02}s"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours}h{minutes:02}m"
    return "{}d{:02}h".format(*divmod(hours, 24))


def size(number: float) -> str:
    """Return a number of bytes with a unit: 512B, 1.5KiB."""
    for unit in _UNITS:
        if number < 1024 or unit == _UNITS[-1]:
            break
        number /= 1024
    return f"{number:.0f}{unit}" if unit == "B" else f"{number:.1f}{unit}"
