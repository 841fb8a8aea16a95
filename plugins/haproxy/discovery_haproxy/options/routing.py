"""Routes of requests from shared addresses to services, and the conflicts between services on an address."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from enum import IntEnum
from typing import NamedTuple

EVERYTHING = "*"
"""Host pattern that every host matches."""
ROOT = "/"
"""Path prefix of every path."""


class AddressClaim(NamedTuple):
    """A service's claim to requests that arrive on an address.

    Without `hosts` the service claims every host, without `prefixes` every path.
    """

    service: str
    address: str
    mode: str
    hosts: tuple[str, ...] = ()
    prefixes: tuple[str, ...] = ()
    accept_proxy: tuple[str, ...] = ()
    maxconn: int | None = None
    log_format: str | None = None


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


class Lookup(NamedTuple):
    """A lookup in the map of routes: one for each kind of host pattern and number of labels in the pattern's name.

    `labels` is 0 for the kinds `EXACT` and `ANY`, whose lookup does not depend on the number.
    """

    kind: HostKind
    labels: int = 0


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


def lookups(routes: Iterable[Route]) -> tuple[Lookup, ...]:
    """Return the lookups that find the most specific of the routes: the first lookup with a result decides.

    Of two suffixes (or prefixes) that match a host name, the longer one has more labels. So lookups with more labels
    come first.
    """
    found = {Lookup(route.kind, _labels(route)) for route in routes}
    return tuple(sorted(found, key=lambda lookup: (lookup.kind, -lookup.labels)))


def check_conflicts(claims: Iterable[AddressClaim]) -> None:
    """Raise ValueError, with both services' names, if two claims exclude each other."""
    for address, group in group_by_address(claims).items():
        first, *others = group
        for other in others:
            _check_pair(address, first, other)
        owner: dict[tuple[str, str], str] = {}
        for route in routes(group):
            taken_by = owner.setdefault((route.host, route.path), route.service)
            if taken_by != route.service:
                tcp = first.mode == "tcp"
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
    for claim in (first, second):
        if claim.maxconn is not None:
            raise ValueError(
                f"{both}, and {claim.service!r} sets 'maxconn', which limits a whole frontend: use 'server_maxconn'"
            )
    if first.log_format != second.log_format:
        raise ValueError(f"{both}, but not the same 'log_format': give both the same, or set the instance's alone")
    if set(first.accept_proxy) != set(second.accept_proxy):
        raise ValueError(f"{both}, but not the same 'accept_proxy': give both the same networks")


def _labels(route: Route) -> int:
    """Return the number of labels in the name of the suffix or prefix."""
    return route.host.count(".") if route.kind in (HostKind.SUFFIX, HostKind.PREFIX) else 0


def _most_specific_first(route: Route) -> tuple[HostKind, int, str, int, str, str]:
    return route.kind, -len(route.host), route.host, -len(route.path), route.path, route.service
