"""Which service answers which host and path on a shared address, and which services cannot share one."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

EVERYTHING = "*"
ROOT = "/"


@dataclass(frozen=True, slots=True)
class Claim:
    """A service that wants to listen on an address; without hosts or prefixes it wants all that arrives there."""

    service: str
    address: str
    mode: str
    hosts: tuple[str, ...] = ()
    prefixes: tuple[str, ...] = ()
    accept_proxy: tuple[str, ...] = ()
    maxconn: int | None = None


@dataclass(frozen=True, slots=True)
class Route:
    """Requests for `host` (a name, `*.name`, `name.*` or `*`) below `path` go to `service`."""

    host: str
    path: str
    service: str

    @property
    def is_default(self) -> bool:
        """Whether it takes whatever no other route did."""
        return (self.host, self.path) == (EVERYTHING, ROOT)


def by_address(claims: Iterable[Claim]) -> Mapping[str, tuple[Claim, ...]]:
    """The claims on each address, ordered by address and service."""
    groups: defaultdict[str, list[Claim]] = defaultdict(list)
    for claim in claims:
        groups[claim.address].append(claim)
    return {address: tuple(sorted(groups[address], key=lambda claim: claim.service)) for address in sorted(groups)}


def routes(claims: Iterable[Claim]) -> tuple[Route, ...]:
    """The routes that the claims ask for, the first that fits to be taken: by the host, then by the longest prefix."""
    wanted = {
        Route(host, path, claim.service)
        for claim in claims
        for host in claim.hosts or (EVERYTHING,)
        for path in claim.prefixes or (ROOT,)
    }
    return tuple(sorted(wanted, key=_most_specific_first))


def check(claims: Iterable[Claim]) -> None:
    """Raise ValueError, with both services' names, if two of the claims cannot stand together."""
    for address, group in by_address(claims).items():
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


def _check_pair(address: str, one: Claim, other: Claim) -> None:
    both = f"services {one.service!r} and {other.service!r} share {address}"
    if one.service == other.service:
        raise ValueError(f"service {one.service!r} names {address} twice")
    for claim in (one, other):
        if claim.mode == "tcp":
            raise ValueError(f"{both}, but {claim.service!r} is in tcp mode: only http services can share an address")
        if claim.maxconn is not None:
            raise ValueError(
                f"{both}, and {claim.service!r} sets 'maxconn', which limits a whole frontend: use 'server_maxconn'"
            )
    if set(one.accept_proxy) != set(other.accept_proxy):
        raise ValueError(f"{both}, but not the same 'accept_proxy': give both the same networks")


def _most_specific_first(route: Route) -> tuple[int, int, str, int, str, str]:
    host = route.host
    kind = 3 if host == EVERYTHING else 1 if host.startswith("*.") else 2 if host.endswith(".*") else 0
    return kind, -len(host), host, -len(route.path), route.path, route.service
