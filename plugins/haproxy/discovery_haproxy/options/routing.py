"""Lookups of routes in HAProxy's map, and what services that share an address cannot set differently."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple, Protocol

from discovery.routing import AddressClaim, HostKind, Route, group_by_address


class Lookup(NamedTuple):
    """A lookup in the map of routes: one for each kind of host pattern and number of labels in the pattern's name.

    `labels` is 0 for the kinds `EXACT` and `ANY`, whose lookup does not depend on the number.
    """

    kind: HostKind
    labels: int = 0


class Shared(Protocol):
    """The options of a service that belong to a whole frontend."""

    @property
    def maxconn(self) -> int | None:
        """Limit of concurrent connections."""

    @property
    def log_format(self) -> str | None:
        """Format of the access log."""


def lookups(routes: Iterable[Route]) -> tuple[Lookup, ...]:
    """Return the lookups that find the most specific of the routes: the first lookup with a result decides.

    Of two suffixes (or prefixes) that match a host name, the longer one has more labels. So lookups with more labels
    come first.
    """
    found = {Lookup(route.kind, _labels(route)) for route in routes}
    return tuple(sorted(found, key=lambda lookup: (lookup.kind, -lookup.labels)))


def check_frontends(claims: Iterable[AddressClaim], services: Mapping[str, Shared]) -> None:
    """Raise ValueError, with both services' names, if services share an address but not the options of a frontend."""
    for address, (first, *others) in group_by_address(claims).items():
        for second in others:
            both = f"services {first.service!r} and {second.service!r} share {address}"
            for claim in (first, second):
                if services[claim.service].maxconn is not None:
                    raise ValueError(
                        f"{both}, and {claim.service!r} sets 'maxconn', which limits a whole frontend:"
                        " use 'server_maxconn'"
                    )
            if services[first.service].log_format != services[second.service].log_format:
                raise ValueError(
                    f"{both}, but not the same 'log_format': give both the same, or set the instance's alone"
                )


def _labels(route: Route) -> int:
    """Return the number of labels in the name of the suffix or prefix."""
    return route.host.count(".") if route.kind in (HostKind.SUFFIX, HostKind.PREFIX) else 0
