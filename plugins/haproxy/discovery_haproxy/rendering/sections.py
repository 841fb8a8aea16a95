"""Sections of haproxy.cfg as data for the templates, computed from the configuration and a snapshot.

A backend that HAProxy would refuse is left out, with the reason, so that the other backends are served.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import NamedTuple

from discovery import Backend, RecordError, Snapshot
from discovery.fields import UNIX, is_service_name
from discovery.registry import validate
from discovery_haproxy.options.binds import BindConfig
from discovery_haproxy.options.config import HAProxyConfig, ServiceConfig, Timeouts, address_claims
from discovery_haproxy.options.routing import (
    EVERYTHING,
    ROOT,
    AddressClaim,
    HostKind,
    Lookup,
    Route,
    group_by_address,
    lookups,
    routes,
)
from discovery_haproxy.options.values import TIME
from discovery_haproxy.rendering.names import accepted_name, accepted_names, cache_name
from discovery_haproxy.rendering.quoting import Raw, argument
from discovery_haproxy.rendering.selection import describe, registered_name, selected, why_empty
from discovery_haproxy.rendering.servers import AddressesOf, Server, registered_host, servers_of

_FRONTEND_PREFIX = "frontend:"
"""Beginning of a frontend's name, which no backend's name has: a service's name has no colon. HAProxy has one stick
table for each name."""
_FRONTEND_TIMEOUTS = ("client", "http_request", "http_keep_alive", "client_fin")
_BACKEND_TIMEOUTS = ("connect", "server", "queue", "tunnel", "check", "server_fin")
_QUOTED_CHARACTERS = 200
"""Characters of a name from the registry in a message, which is one line."""

TimeoutLines = tuple[tuple[str, str], ...]
"""Pairs of a timeout's HAProxy keyword and its duration, such as `("http-request", "10s")`."""


class BackendSection(NamedTuple):
    """A `backend` section, which serves `service`. `timeouts` are the service's own."""

    name: str
    mode: str
    backends: tuple[Server, ...]
    config: ServiceConfig
    timeouts: TimeoutLines = ()
    service: str = ""

    @property
    def cache(self) -> str:
        """Name of the `cache` section of the service; empty if the service has none."""
        return cache_name(self.name) if self.config.cache else ""


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


class Sections(NamedTuple):
    """All sections. `mappings` describes each route for people, `problems` each omission and its reason."""

    frontends: tuple[FrontendSection, ...]
    services: tuple[BackendSection, ...]
    mappings: tuple[str, ...]
    problems: tuple[str, ...]

    def route_entries(self) -> Iterator[tuple[str, str]]:
        """Yield the entries of the map of routes: a frontend's name with a route's key, and a backend section."""
        for frontend in self.frontends:
            for service, route in frontend.routes:
                yield f"{frontend.name}/{route.key}", service


class _SharedAddresses(NamedTuple):
    """Addresses that the same services share, and the routes to these services, which are equal on each address."""

    addresses: tuple[str, ...]
    services: tuple[str, ...] = ()
    routes: tuple[Route, ...] = ()

    @property
    def label(self) -> str:
        """Text in the frontend's name: the only service, or the first address of several services."""
        return self.services[0] if len(self.services) == 1 else self.addresses[0]


def build_sections(
    config: HAProxyConfig,
    snapshot: Snapshot,
    addresses_of: AddressesOf = registered_host,
    replaced: Mapping[str, tuple[Backend, ...]] | None = None,
    former: AbstractSet[tuple[str, str]] = frozenset(),
) -> Sections:
    """Compute the sections for a snapshot.

    `addresses_of` returns the addresses to use for a backend. `replaced` has the backends of the services for which
    the snapshot does not count, and `former` the backends, by service and id, that have no address now. The services
    are those of the configuration.
    """
    problems: list[str] = []
    configs = config.services or dict.fromkeys(_valid_services(snapshot, problems), ServiceConfig())
    names = accepted_names(configs)
    services = {
        service: _backend_section(
            names[service],
            configs[service],
            _backend_timeouts(configs[service], config),
            _valid_backends(
                (replaced or {}).get(service, selected(service, configs[service], snapshot)),
                problems,
            ),
            problems,
            _except(addresses_of, {id_ for of, id_ in former if of == service}),
        )._replace(service=service)
        for service in sorted(configs)
    }
    for name, section in services.items():
        if (
            not section.backends
            and name not in (replaced or ())
            and (reason := why_empty(name, section.config, snapshot))
        ):
            problems.append(f"service {name!r} has no backends: {reason}")
    claims = address_claims(config) if config.services else _claims_by_name(config, names, problems)
    groups = _group_by_services(claims)
    if not config.services and not groups:  # no service is configured or registered: HAProxy answers 503
        groups = [_SharedAddresses(tuple(bind.address for bind in config.bind))]
    mappings = tuple(
        _mapping(configs[route.service].mode, address, route, services[route.service])
        for group in groups
        for address in group.addresses
        for route in group.routes
    )
    frontends = tuple(_frontend_section(config, configs, names, group) for group in groups)
    return Sections(frontends, tuple(services.values()), mappings, tuple(problems))


def _valid_services(snapshot: Snapshot, problems: list[str]) -> list[str]:
    """Return the registered services whose names can stand in a condition and as a section's name."""
    valid = [service for service in snapshot.services if is_service_name(service)]
    invalid = sorted(snapshot.services.keys() - set(valid))
    problems += [
        f"service {service[:_QUOTED_CHARACTERS]!r} is left out: that is not a valid service name" for service in invalid
    ]
    return valid


def _backend_section(
    name: str,
    config: ServiceConfig,
    timeouts: TimeoutLines,
    backends: Sequence[Backend],
    problems: list[str],
    addresses_of: AddressesOf,
) -> BackendSection:
    servers = servers_of(backends, config, addresses_of, problems)
    return BackendSection(name, config.mode, servers, config, timeouts)


def _backend_timeouts(service: ServiceConfig, config: HAProxyConfig) -> TimeoutLines:
    """Return the timeouts of a service. If no option sets the timeout of checks, it follows from their interval."""
    timeouts = _timeout_lines(service.timeouts, _BACKEND_TIMEOUTS)
    if service.check is None or service.timeouts.check is not None or "check" in config.timeouts.model_fields_set:
        return timeouts
    return (*timeouts, ("check", service.check.timeout))


def _except(addresses_of: AddressesOf, former: AbstractSet[str]) -> AddressesOf:
    return (lambda backend: () if backend.id in former else addresses_of(backend)) if former else addresses_of


def _valid_backends(backends: Sequence[Backend], problems: list[str]) -> list[Backend]:
    valid = []
    for backend in backends:
        try:
            valid.append(validate(backend))
        except RecordError as error:
            id_, name = backend.id[:_QUOTED_CHARACTERS], backend.service[:_QUOTED_CHARACTERS]
            problems.append(f"backend {id_!r} of {name!r} is left out: {error}")
    return valid


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


def _timeout_lines(timeouts: Timeouts, kinds: Iterable[str]) -> TimeoutLines:
    given = ((kind.replace("_", "-"), getattr(timeouts, kind)) for kind in kinds)
    return tuple((kind, time) for kind, time in given if time is not None)


def _longest_timeouts(defaults: Timeouts, of_services: Sequence[Timeouts]) -> TimeoutLines:
    """Return a shared frontend's timeouts: of each kind the longest of its services, if that is not the default."""
    lines = []
    for kind in _FRONTEND_TIMEOUTS:
        default = getattr(defaults, kind)
        times = [getattr(timeouts, kind) or default for timeouts in of_services]
        longest = max(times, key=TIME.parse, default=default)
        if longest != default:
            lines.append((kind.replace("_", "-"), longest))
    return tuple(lines)


def _mapping(mode: str, address: str, route: Route, section: BackendSection) -> str:
    count = len(section.backends)
    what = "" if route.is_default else f" {route.host}{'' if route.path == ROOT else route.path}"
    selection = _selection(section.service, section.config)
    unknown = sum(not server.usable for server in section.backends)
    but = f", {unknown} without an address" if unknown else ""
    backups = sum(server.backup for server in section.backends)
    but += f", {backups} backup{'' if backups == 1 else 's'}" if backups else ""
    return f"{route.service}  {mode} {address}{what} -> {count} backend{'' if count == 1 else 's'}{selection}{but}"


def _selection(name: str, config: ServiceConfig) -> str:
    """Return the service and the labels that the backends are selected by; empty if no option selects."""
    registered = f" of {registered_name(name, config)}" if config.service is not None or config.labels else ""
    return f"{registered} with {describe(config.labels)}" if config.labels else registered
