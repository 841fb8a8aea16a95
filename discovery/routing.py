"""Routes of requests from shared addresses to services, and the conflicts between services on an address.

Public API, for consumers that listen. A service claims requests on an address by host patterns and path prefixes;
`routes` orders what the services on one address claim, the most specific first, and `check_conflicts` refuses claims
that exclude each other. All objects are immutable and all functions are pure.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from enum import IntEnum
from itertools import pairwise
from typing import NamedTuple

__all__ = [
    "EVERYTHING",
    "ROOT",
    "AddressClaim",
    "HostKind",
    "Route",
    "check_conflicts",
    "group_by_address",
    "routes",
]

EVERYTHING = "*"
"""Host pattern that every host matches."""
ROOT = "/"
"""Path prefix of every path."""


class AddressClaim(NamedTuple):
    """A service's claim to requests that arrive on an address.

    `service` is a name for messages, `address` the address in its canonical form, and `mode` either "http" or "tcp".
    Without `hosts` the service claims every host, without `prefixes` every path. `accept_proxy` has the networks whose
    clients send a PROXY protocol header.
    """

    service: str
    address: str
    mode: str
    hosts: tuple[str, ...] = ()
    prefixes: tuple[str, ...] = ()
    accept_proxy: tuple[str, ...] = ()


class HostKind(IntEnum):
    """Kinds of host patterns, the most specific first."""

    EXACT = 0
    """A host name."""
    SUFFIX = 1
    """`*.name`: every host name that ends with `.name`."""
    PREFIX = 2
    """`name.*`: every host name that begins with `name.`."""
    ANY = 3
    """`*`: every host."""


class Route(NamedTuple):
    """Requests for `host` (a name, `*.name`, `name.*` or `*`) below `path` go to `service`."""

    host: str
    path: str
    service: str

    @property
    def is_default(self) -> bool:
        """Report whether the route matches every request."""
        return (self.host, self.path) == (EVERYTHING, ROOT)

    @property
    def kind(self) -> HostKind:
        """Kind of the host pattern."""
        if self.host == EVERYTHING:
            return HostKind.ANY
        if self.host.startswith("*."):
            return HostKind.SUFFIX
        return HostKind.PREFIX if self.host.endswith(".*") else HostKind.EXACT

    @property
    def key(self) -> str:
        """Key of the route in a map: the host pattern and the path, which ends with `/`.

        The keys of the routes that match a request are prefixes of the request's own key. The longest prefix is the
        route with the longest path.
        """
        return f"{self.host}{self.path.rstrip('/')}/"


def group_by_address(claims: Iterable[AddressClaim]) -> Mapping[str, tuple[AddressClaim, ...]]:
    """Return the claims to each address, ordered by address and service."""
    groups: defaultdict[str, list[AddressClaim]] = defaultdict(list)
    for claim in claims:
        groups[claim.address].append(claim)
    return {address: tuple(sorted(groups[address], key=lambda claim: claim.service)) for address in sorted(groups)}


def routes(claims: Iterable[AddressClaim]) -> tuple[Route, ...]:
    """Return the routes of the claims, most specific first: by the host, then by the longest path prefix."""
    unordered = {
        Route(host, path, claim.service)
        for claim in claims
        for host in claim.hosts or (EVERYTHING,)
        for path in claim.prefixes or (ROOT,)
    }
    return tuple(sorted(unordered, key=_most_specific_first))


def check_conflicts(claims: Iterable[AddressClaim]) -> None:
    """Raise ValueError, with both services' names, if two claims exclude each other."""
    for address, group in group_by_address(claims).items():
        for first, second in pairwise(group):
            _check_pair(address, first, second)
        owner: dict[tuple[str, str], str] = {}
        for route in routes(group):
            taken_by = owner.setdefault((route.host, route.path), route.service)
            if taken_by != route.service:
                tcp = group[0].mode == "tcp"
                what = "everything" if route.is_default else f"host {route.host!r}"
                path = "" if route.is_default or tcp else f", path {route.path!r}"
                options = "'hosts'" if tcp else "'hosts' or 'path_prefix'"
                raise ValueError(
                    f"services {taken_by!r} and {route.service!r} both take {what}{path} on {address}:"
                    f" give them different {options}, or a 'bind' of their own"
                )


def _check_pair(address: str, first: AddressClaim, second: AddressClaim) -> None:
    both = f"services {first.service!r} and {second.service!r} share {address}"
    if first.service == second.service:
        raise ValueError(f"service {first.service!r} names {address} twice")
    if first.mode != second.mode:
        tcp = first if first.mode == "tcp" else second
        raise ValueError(f"{both}, but only {tcp.service!r} is in tcp mode: give each a 'bind' of its own")
    if set(first.accept_proxy) != set(second.accept_proxy):
        raise ValueError(f"{both}, but not the same 'accept_proxy': give both the same networks")


def _most_specific_first(route: Route) -> tuple[HostKind, int, str, int, str, str]:
    return route.kind, -len(route.host), route.host, -len(route.path), route.path, route.service
