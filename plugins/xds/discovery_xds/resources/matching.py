"""Virtual hosts of Envoy from routes: the same requests go to the same services as by the rules of `routing`; pure.

Envoy chooses a virtual host by the host name alone and does not look further if none of its paths matches. So each
virtual host also has the routes of all less specific host patterns that its requests can match.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from discovery.routing import EVERYTHING, HostKind, Route


class Match(NamedTuple):
    """Requests below `path` go to `service`.

    With `host_prefix` this holds only for hosts that begin with that text: a condition that the virtual host does not
    imply.
    """

    path: str
    service: str
    host_prefix: str = ""


class VirtualHost(NamedTuple):
    """The requests to the hosts of `pattern`, which is `name`, `*.name`, `name.*` or `*`; the first match decides."""

    pattern: str
    matches: tuple[Match, ...]


def virtual_hosts(routes: Iterable[Route]) -> tuple[VirtualHost, ...]:
    """Return the virtual hosts for `routes`, which are ordered, the most specific first."""
    ordered = tuple(routes)
    patterns = {route.host: route.kind for route in ordered}
    return tuple(VirtualHost(pattern, tuple(_matches(pattern, kind, ordered))) for pattern, kind in patterns.items())


def _matches(pattern: str, kind: HostKind, routes: Iterable[Route]) -> Iterator[Match]:
    for route in routes:
        if route.host == pattern or _covers(route, pattern, kind):
            yield Match(route.path, route.service)
        elif kind is HostKind.SUFFIX and route.kind is HostKind.PREFIX:
            yield Match(route.path, route.service, route.host.removesuffix("*"))


def _covers(route: Route, pattern: str, kind: HostKind) -> bool:
    """Return True if every host of `pattern` matches the less specific pattern of `route`."""
    if route.host == EVERYTHING:
        return True
    if route.kind is HostKind.SUFFIX and kind in (HostKind.EXACT, HostKind.SUFFIX):
        return pattern.removeprefix("*").endswith(route.host.removeprefix("*"))
    if route.kind is HostKind.PREFIX and kind in (HostKind.EXACT, HostKind.PREFIX):
        return pattern.removesuffix("*").startswith(route.host.removesuffix("*"))
    return False
