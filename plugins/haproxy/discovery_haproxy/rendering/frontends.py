"""Frontends of haproxy.cfg as data for the templates. They follow from the options and the names of the services."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from discovery.fields import UNIX
from discovery.routing import EVERYTHING, ROOT, AddressClaim, HostKind, Route, group_by_address, routes
from discovery_haproxy.options.binds import BindConfig
from discovery_haproxy.options.config import HAProxyConfig, ServiceConfig, Timeouts, address_claims
from discovery_haproxy.options.routing import Lookup, lookups
from discovery_haproxy.options.values import TIME
from discovery_haproxy.rendering.names import accepted_name
from discovery_haproxy.rendering.quoting import Raw, argument

_FRONTEND_PREFIX = "frontend:"
"""Beginning of a frontend's name, which no backend's name has: a service's name has no colon. HAProxy has one stick
table for each name."""
_FRONTEND_TIMEOUTS = ("client", "http_request", "http_keep_alive", "client_fin")

TimeoutLines = tuple[tuple[str, str], ...]
"""Pairs of a timeout's HAProxy keyword and its duration, such as `("http-request", "10s")`."""


class UseBackend(NamedTuple):
    """Requests for `route` go to `service`, the name of a `BackendSection`."""

    service: str
    route: Route

    @property
    def condition(self) -> Raw:
        """Condition of a `use_backend` line, in HAProxy's syntax. The condition reads the variable `txn.host`."""
        return _condition(self.route)


class Bind(NamedTuple):
    """A `bind` line."""

    address: str
    certificates: tuple[Path, ...]
    local_senders: bool
    """True if clients of this Unix socket send a PROXY protocol header."""
    senders: tuple[str, ...]
    """Networks whose clients send a PROXY protocol header."""
    options: tuple[str, ...]


class FrontendSection(NamedTuple):
    """A `frontend` section. The first route that matches decides; other requests go to the section `default`, if given.

    `lookups` find the same route in the map of routes.
    """

    name: str
    mode: str
    binds: tuple[Bind, ...]
    routes: tuple[UseBackend, ...]
    lookups: tuple[Lookup, ...]
    default: str | None
    by_host: bool
    maxconn: int | None
    timeouts: TimeoutLines
    lines: tuple[str, ...]
    log_format: str | None = None
    """Format of the access log; None for HAProxy's own format of the mode."""


class Frontends(NamedTuple):
    """All `frontend` sections. `mappings` has a service and the begin of a line about each of its routes, for people.

    `problems` describes each service that has no route.
    """

    sections: tuple[FrontendSection, ...]
    mappings: tuple[tuple[str, str], ...]
    problems: tuple[str, ...]


class _SharedAddresses(NamedTuple):
    """Addresses that the same services share, and the routes to these services, which are equal on each address."""

    addresses: tuple[str, ...]
    services: tuple[str, ...] = ()
    routes: tuple[Route, ...] = ()

    @property
    def label(self) -> str:
        """Text in the frontend's name: the only service, or the first address of several services."""
        return self.services[0] if len(self.services) == 1 else self.addresses[0]


def frontends_of(config: HAProxyConfig, services: Mapping[str, ServiceConfig], names: Mapping[str, str]) -> Frontends:
    """Compute the frontends for the services with these options. `names` has the names of their `backend` sections."""
    problems: list[str] = []
    claims = _claims_by_name(config, names, problems) if config.serves_by_name else address_claims(config)
    claims = tuple(claim for claim in claims if claim.service in services)  # without those that are left out
    groups = _group_by_services(claims)
    taken = {address for group in groups for address in group.addresses}
    free = tuple(bind.address for bind in config.bind if bind.address not in taken)
    # No service is configured or registered, or none has asked for a route yet: HAProxy answers 503.
    if free and (config.label_routes or not (config.services or groups)):
        groups.append(_SharedAddresses(free))
    mappings = tuple(
        (route.service, _mapping(services[route.service].mode, address, route))
        for group in groups
        for address in group.addresses
        for route in group.routes
    )
    sections = tuple(_frontend_section(config, services, names, group) for group in groups)
    return Frontends(sections, mappings, tuple(problems))


def _claims_by_name(config: HAProxyConfig, names: Mapping[str, str], problems: list[str]) -> tuple[AddressClaim, ...]:
    """Return claims to the host names `<service>` and `<service>.*`; an only service claims every host."""
    hosts: dict[str, str] = {}
    for service in names:
        taken_by = hosts.setdefault(service.lower(), service)
        if taken_by != service:
            problems.append(f"service {service!r} has no route: its host name is that of {taken_by!r}")
    return tuple(
        AddressClaim(
            service, bind.address, "http", (host, f"{host}.*") if len(names) > 1 else (), (), bind.accept_proxy
        )
        for host, service in hosts.items()
        for bind in config.bind
    )


def _group_by_services(claims: Iterable[AddressClaim]) -> list[_SharedAddresses]:
    """Group the addresses by the services that share an address, ordered by the frontends' names."""
    groups: defaultdict[tuple[str, ...], list[tuple[str, tuple[AddressClaim, ...]]]] = defaultdict(list)
    for address, on_address in group_by_address(claims).items():
        groups[tuple(claim.service for claim in on_address)].append((address, on_address))
    shared = [
        _SharedAddresses(tuple(address for address, _ in group), services, routes(group[0][1]))
        for services, group in groups.items()
    ]
    return sorted(shared, key=lambda group: group.label)


def _frontend_section(
    config: HAProxyConfig, configs: Mapping[str, ServiceConfig], names: Mapping[str, str], group: _SharedAddresses
) -> FrontendSection:
    members = group.services
    conditional = tuple(route for route in group.routes if not route.is_default)
    return FrontendSection(
        name=f"{_FRONTEND_PREFIX}{accepted_name(group.label)}",
        mode=configs[members[0]].mode if members else "http",
        binds=tuple(_bind(config, configs, members, address) for address in group.addresses),
        routes=tuple(UseBackend(names[route.service], route) for route in conditional),
        lookups=lookups(conditional),
        default=next((names[route.service] for route in group.routes if route.is_default), None),
        by_host=any(route.host != EVERYTHING for route in conditional),
        maxconn=configs[members[0]].maxconn if len(members) == 1 else None,
        timeouts=_longest_timeouts(config.timeouts, [configs[member].timeouts for member in members]),
        lines=tuple(line for member in members for line in configs[member].frontend_lines),
        log_format=_log_format(config, [configs[member] for member in members]),
    )


def _log_format(config: HAProxyConfig, members: Sequence[ServiceConfig]) -> str | None:
    """Return the format of the access log, which is equal for all services of a frontend."""
    own = next((member.log_format for member in members if member.log_format), None)
    is_http = not members or members[0].mode == "http"
    return own or (config.log_format if is_http else None)


def _bind(config: HAProxyConfig, configs: Mapping[str, ServiceConfig], members: Sequence[str], address: str) -> Bind:
    """Merge the options that the services sharing an address set for their bind."""
    binds = [bind for member in members for bind in _binds_of(config, configs[member])] or list(config.bind)
    on_address: list[BindConfig] = [bind for bind in binds if bind.address == address]
    senders = dict.fromkeys(sender for bind in on_address for sender in bind.accept_proxy)
    return Bind(
        address,
        tuple(dict.fromkeys(path for bind in on_address for path in bind.certificate)),
        UNIX in senders and address.startswith("/"),
        tuple(sender for sender in senders if sender != UNIX and not address.startswith("/")),
        tuple(dict.fromkeys(bind.options for bind in on_address if bind.options)),
    )


def _binds_of(config: HAProxyConfig, service: ServiceConfig) -> tuple[BindConfig, ...]:
    return config.bind if service.bind is None else service.bind


def _condition(route: Route) -> Raw:
    """Return HAProxy's condition for the route. A path prefix matches itself and everything below."""
    host = ""
    match route.kind:
        case HostKind.SUFFIX:
            host = f"{{ var(txn.host) -m end -- {argument(route.host[1:])} }}"
        case HostKind.PREFIX:
            host = f"{{ var(txn.host) -m beg -- {argument(route.host[:-1])} }}"
        case HostKind.EXACT:
            host = f"{{ var(txn.host) -m str -- {argument(route.host)} }}"
    if route.path == ROOT:
        return Raw(f"if {host}")
    path, below = argument(route.path), argument(f"{route.path}/")
    return Raw(f"if {host} {{ path -m str -- {path} }} or {host} {{ path -m beg -- {below} }}".replace("  ", " "))


def timeout_lines(timeouts: Timeouts, kinds: Iterable[str]) -> TimeoutLines:
    """Return the timeouts that are set, of these kinds."""
    given = ((kind.replace("_", "-"), getattr(timeouts, kind)) for kind in kinds)
    return tuple((kind, time) for kind, time in given if time is not None)


def _longest_timeouts(defaults: Timeouts, of_services: Sequence[Timeouts]) -> TimeoutLines:
    """Return a shared frontend's timeouts: of each kind the longest of its services, if that is not the default."""
    lines = []
    for kind in _FRONTEND_TIMEOUTS:
        default = getattr(defaults, kind)
        times = {getattr(timeouts, kind) or default: None for timeouts in of_services}  # in their order, each once
        longest = max(times, key=TIME.parse, default=default)
        if longest != default:
            lines.append((kind.replace("_", "-"), longest))
    return tuple(lines)


def _mapping(mode: str, address: str, route: Route) -> str:
    what = "" if route.is_default else f" {route.host}{'' if route.path == ROOT else route.path}"
    return f"{route.service}  {mode} {address}{what} -> "


def route_entries(frontends: Iterable[FrontendSection]) -> Iterator[tuple[str, str]]:
    """Yield the entries of the map of routes: a frontend's name with a route's key, and a backend section."""
    for frontend in frontends:
        for service, route in frontend.routes:
            yield f"{frontend.name}/{route.key}", service
