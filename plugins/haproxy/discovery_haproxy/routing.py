"""Routes of requests from shared addresses to services, and the conflicts between services on an address."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
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


class Route(NamedTuple):
    """Requests for `host` (a name, `*.name`, `name.*` or `*`) below `path` go to `service`."""

    host: str
    path: str
    service: str

    @property
    def is_default(self) -> bool:
        """Report whether the route matches every request."""
        return (self.host, self.path) == (EVERYTHING, ROOT)


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
        first, *others = group
        for other in others:
            _check_pair(address, first, other)
        owner: dict[tuple[str, str], str] = {}
        for route in routes(group):
            taken_by = owner.setdefault((route.host, route.path), route.service)
            if taken_by != route.service:
                what = "everything" if route.is_default else f"host {route.host!r}, path {route.path!r}"
                raise ValueError(
                    f"services {taken_by!r} and {route.service!r} both take {what} on {address}:"
                    " give them different 'hosts' or 'path_prefix', or a 'bind' of their own"
                )


def _check_pair(address: str, first: AddressClaim, second: AddressClaim) -> None:
    both = f"services {first.service!r} and {second.service!r} share {address}"
    if first.service == second.service:
        raise ValueError(f"service {first.service!r} names {address} twice")
    for claim in (first, second):
        if claim.mode == "tcp":
            raise ValueError(f"{both}, but {claim.service!r} is in tcp mode: only http services can share an address")
        if claim.maxconn is not None:
            raise ValueError(
                f"{both}, and {claim.service!r} sets 'maxconn', which limits a whole frontend: use 'server_maxconn'"
            )
    if first.log_format != second.log_format:
        raise ValueError(f"{both}, but not the same 'log_format': give both the same, or set the instance's alone")
    if set(first.accept_proxy) != set(second.accept_proxy):
        raise ValueError(f"{both}, but not the same 'accept_proxy': give both the same networks")


def _most_specific_first(route: Route) -> tuple[int, int, str, int, str, str]:
    host = route.host
    kind = 3 if host == EVERYTHING else 1 if host.startswith("*.") else 2 if host.endswith(".*") else 0
    return kind, -len(host), host, -len(route.path), route.path, route.service
