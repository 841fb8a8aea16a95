"""Decisions on routes: of several wishes for one route, that of the oldest record counts. Pure functions."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from discovery_haproxy.label_routes.requests import Wish

RouteKey = tuple[str, str]
"""Host and path of a route."""


class Granted(NamedTuple):
    """The routes of a service: each of its hosts below the path."""

    hosts: tuple[str, ...]
    path: str


class Decisions(NamedTuple):
    """The routes of each service, and a line for a person for each service that does not get a route."""

    services: Mapping[str, Granted]
    problems: tuple[str, ...]


def decide(wishes: Iterable[Wish], ages: Mapping[str, int], configured: Mapping[RouteKey, str]) -> Decisions:
    """Decide whose each route is.

    `ages` has a number for the key of each backend, smaller for an older record. `configured` has the service of each
    route of the configuration, which no label takes away.
    """
    owners: dict[RouteKey, Wish] = {}
    paths: dict[str, Wish] = {}
    hosts: dict[str, set[str]] = {}
    problems: dict[tuple[str, str, str], str] = {}
    for wish in sorted(wishes, key=lambda each: (ages[each.key], each.key)):
        service, route = wish.service, (wish.host, wish.path)
        reason = ""
        if route in configured:
            reason = f"the configuration gives it to the service {configured[route]!r}"
        elif (owner := owners.get(route, wish)).service != service:
            reason = f"the service {owner.service!r} has it, whose backend {owner.id!r} is older"
        elif (first := paths.get(service, wish)).path != wish.path:
            reason = f"the older backend {first.id!r} of the service has the path {first.path}"
        if reason:
            problem = f"backend {wish.id!r} of {service!r} gets no route for {_text(wish)}: {reason}"
            problems.setdefault((service, *route), problem)
            continue
        owners.setdefault(route, wish)
        paths.setdefault(service, wish)
        hosts.setdefault(service, set()).add(wish.host)
    granted = {name: Granted(tuple(sorted(hosts[name])), paths[name].path) for name in sorted(hosts)}
    return Decisions(granted, tuple(problems.values()))


def _text(wish: Wish) -> str:
    return wish.host if wish.path == "/" else f"{wish.host}{wish.path}"
