"""The live connections that a daemon's admin endpoint tells of: asked for, and as rows of a table."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from typing import Any
from urllib.parse import quote

from discovery import DiscoveryError, join_host_port
from discovery.toolkit import printable

HEADER = ("CONSUMER", "LISTENER", "CLIENT", "BACKEND", "ADDRESS", "AGE", "IN", "OUT", "STATE")
_PLUGIN = "tcpproxy"
_PATIENCE = 10.0
_UNITS = ("B", "KiB", "MiB", "GiB")


@dataclass(frozen=True, slots=True)
class Live:
    """Connections as the daemon tells of them, each with its consumer's name, and how many there are besides."""

    connections: tuple[Mapping[str, Any], ...]
    more: int


def ask(host: str, port: int, consumer: str | None) -> Live:
    """The connections of one consumer, or of all. Raises DiscoveryError if the daemon cannot tell."""
    at = join_host_port(host, port)
    try:
        told = _get(host, port, at, "/api/consumers")["consumers"]
        names = [str(each["name"]) for each in told if each["plugin"] == _PLUGIN]
        if not names or (consumer is not None and consumer not in names):
            has = f"it has {', '.join(names)}" if names else "it has none of that plugin"
            which = f"no consumer {consumer!r}" if consumer is not None else "no consumer"
            raise DiscoveryError(f"the daemon at {at} has {which} of the plugin {_PLUGIN}; {has}")
        asked = names if consumer is None else [consumer]
        documents = {name: _get(host, port, at, f"/api/consumers/{quote(name, safe='')}") for name in asked}
        connections = [
            {"consumer": name, **each} for name, document in documents.items() for each in document["connections"]
        ]
        more = sum(int(document["more_connections"]) for document in documents.values())
    except (LookupError, TypeError, ValueError):
        raise DiscoveryError(
            f"what answers at {at} is no daemon's admin endpoint, or that of another version"
        ) from None
    return Live(tuple(connections), more)


def rows(connections: Iterable[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """The cells under HEADER; harmless to a terminal."""
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


def _address(told: Any) -> str:
    """Host and port; what came by a Unix socket has neither."""
    if not isinstance(told, list) or len(told) < 2:
        return "-"
    host, port = str(told[0]), told[1]
    return join_host_port(host, port)


def duration(seconds: float) -> str:
    """A time in its two greatest units: 4.2s, 3m20s, 2h05m, 3d04h."""
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
    """A number of bytes with a unit: 512B, 1.5KiB."""
    for unit in _UNITS:
        if number < 1024 or unit == _UNITS[-1]:
            break
        number /= 1024
    return f"{number:.0f}{unit}" if unit == "B" else f"{number:.1f}{unit}"


def _get(host: str, port: int, at: str, path: str) -> Any:
    connection = HTTPConnection(host, port, timeout=_PATIENCE)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        document = json.loads(answer.read())
    except OSError as error:
        reason = error.strerror or str(error)
        raise DiscoveryError(
            f"no daemon answers at {at}: {reason}; name its admin endpoint with --admin (`ambassador` and `forward`"
            " have none)"
        ) from None
    except HTTPException:
        raise ValueError(path) from None
    finally:
        connection.close()
    if answer.status != 200:
        raise DiscoveryError(f"the daemon at {at} cannot tell: {printable(str(document['error']))}")
    return document
