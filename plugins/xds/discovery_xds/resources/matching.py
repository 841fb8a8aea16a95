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
    """Return the virtual hosts for `routes`, which are ordered, the most specific first.

    Takes time in proportion to the number of routes, and with patterns `*.name` to their product with those `name.*`.
    """
    by_host: dict[str, list[Route]] = {}
    for route in routes:
        by_host.setdefault(route.host, []).append(route)
    prefixes = tuple(host for host in by_host if host.endswith(".*"))
    return tuple(
        VirtualHost(
            host,
            tuple(
                Match(route.path, route.service, condition)
                for other, condition in _patterns(host, own[0].kind, prefixes)
                for route in by_host.get(other, ())
            ),
        )
        for host, own in by_host.items()
    )


def _patterns(host: str, kind: HostKind, prefixes: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield the patterns that hosts of the pattern `host` can match, the most specific first, each with a condition.

    The condition is the beginning that a host must have; empty if every host of `host` matches.
    """
    if kind is not HostKind.ANY:
        yield host, ""
    if kind in (HostKind.EXACT, HostKind.SUFFIX):
        name = host.removeprefix("*.")
        yield from ((f"*{name[at:]}", "") for at, character in enumerate(name) if character == ".")
    if kind is HostKind.SUFFIX:
        yield from ((prefix, prefix.removesuffix("*")) for prefix in prefixes)
    elif kind is not HostKind.ANY:
        name = host.removesuffix(".*")
        yield from ((f"{name[:at]}.*", "") for at in range(len(name) - 1, 0, -1) if name[at] == ".")
    yield EVERYTHING, ""
