"""The data of templates: frontends, services and backends, resolved from configuration and snapshot, fit for HAProxy.

Whatever HAProxy would refuse for one backend alone is left out here, with the reason, so that it stops nobody else.
"""

import hashlib
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from discovery import Backend, RecordError, Service, Snapshot, State, join_host_port
from discovery.fields import UNIX
from discovery.registry import validate
from discovery_haproxy.config import SERVICE_NAME, BindConfig, HAProxyConfig, ServiceConfig, Timeouts, claims_of
from discovery_haproxy.quoting import Raw, argument
from discovery_haproxy.routing import EVERYTHING, ROOT, Claim, Route, by_address, routes
from discovery_haproxy.values import milliseconds

_NAME = re.compile(r"[A-Za-z0-9_.:-]{1,128}")
_LOOKS_HASHED = re.compile(r".*-[0-9a-f]{16}")
_FRONTEND_TIMEOUTS = ("client", "http_request", "http_keep_alive", "client_fin")
_BACKEND_TIMEOUTS = ("connect", "server", "queue", "tunnel", "check", "server_fin")

Settings = tuple[tuple[str, str], ...]
AddressesOf = Callable[[Backend], Sequence[str]]
"""The addresses of a backend, the first of which is used; or its host name, for HAProxy to look up."""


def as_registered(backend: Backend) -> tuple[str, ...]:
    """What the registry says."""
    return (backend.host,)


class Labels(dict[str, str]):
    """A backend's labels; one that it does not have is empty, so that no record can break a template."""

    def __missing__(self, key: str) -> str:
        """Nothing."""
        return ""


@dataclass(frozen=True, slots=True)
class BackendView:
    """One `server`: `id` is unique in the service and fit for its name, `weight` is 0 while it is draining.

    `host` is the address to connect to, or a host name; `usable` is whether HAProxy can do with it what it needs to.
    """

    id: str
    host: str
    port: int
    weight: int
    draining: bool
    cookie: str
    labels: Labels = field(hash=False)
    record: Backend
    usable: bool = True

    @property
    def address(self) -> str:
        """`host:port`, an IPv6 host in brackets."""
        return join_host_port(self.host, self.port)


@dataclass(frozen=True, slots=True)
class ServiceView:
    """One `backend` section, named `name`; `timeouts` are those of its own, as HAProxy names them."""

    name: str
    mode: str
    backends: tuple[BackendView, ...]
    config: ServiceConfig
    timeouts: Settings = ()


@dataclass(frozen=True, slots=True)
class RouteView:
    """Send to `service` (a `ServiceView`'s name) what meets `condition`, HAProxy's syntax; empty: everything."""

    service: str
    condition: Raw


@dataclass(frozen=True, slots=True)
class BindView:
    """One `bind` line."""

    address: str
    certificates: tuple[Path, ...]
    local_senders: bool
    """Whether who comes through a Unix socket sends a PROXY protocol header."""
    senders: tuple[str, ...]
    """The networks that do."""
    options: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class FrontendView:
    """One `frontend` section; `routes` are tried in order, and what fits none goes to `default`, if there is one."""

    name: str
    mode: str
    binds: tuple[BindView, ...]
    routes: tuple[RouteView, ...]
    default: str | None
    by_host: bool
    maxconn: int | None
    timeouts: Settings
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class View:
    """All that is rendered; `mappings` tells people what leads where, `problems` what was left out and why."""

    frontends: tuple[FrontendView, ...]
    services: tuple[ServiceView, ...]
    mappings: tuple[str, ...]
    problems: tuple[str, ...]


def resolve(config: HAProxyConfig, snapshot: Snapshot, addresses_of: AddressesOf = as_registered) -> View:
    """The view of this snapshot by the configuration. `addresses` has those of the backends."""
    problems: list[str] = []
    configs = config.services or dict.fromkeys(_offered(snapshot, problems), ServiceConfig())
    names = _unique_names(configs)
    services = {
        service: _service(names[service], configs[service], snapshot.services.get(service), addresses_of, problems)
        for service in sorted(configs)
    }
    claims = claims_of(config) if config.services else _claims_by_name(config, names, problems)
    frontends = _frontends(config, configs, names, claims)
    mappings = tuple(
        _mapping(frontend.mode, address, route, services[route.service])
        for frontend, addresses, wanted in frontends
        for address in addresses
        for route in wanted
    )
    return View(tuple(view for view, _, _ in frontends), tuple(services.values()), mappings, tuple(problems))


def _offered(snapshot: Snapshot, problems: list[str]) -> list[str]:
    """The services of the registry whose names can stand in a condition and as a section's name."""
    offered = [service for service in snapshot.services if SERVICE_NAME.fullmatch(service)]
    left_out = sorted(snapshot.services.keys() - set(offered))
    problems += [f"service {service[:200]!r} is left out: that is no service's name" for service in left_out]
    return offered


def _service(
    name: str, config: ServiceConfig, service: Service | None, addresses_of: AddressesOf, problems: list[str]
) -> ServiceView:
    backends = _usable(service.backends if service else (), problems)
    ids = _unique_names(backend.id for backend in backends)
    views = tuple(_backend(ids[backend.id], backend, addresses_of(backend)) for backend in backends)
    return ServiceView(name, config.mode, views, config, _timeouts(config.timeouts, _BACKEND_TIMEOUTS))


def _usable(backends: Iterable[Backend], problems: list[str]) -> list[Backend]:
    usable = []
    for backend in backends:
        try:
            usable.append(validate(backend))
        except RecordError as error:
            problems.append(f"backend {backend.id[:200]!r} of {backend.service[:200]!r} is left out: {error}")
    return usable


def _backend(id_: str, backend: Backend, addresses: Sequence[str]) -> BackendView:
    draining = backend.state is State.DRAINING
    # The cookie goes to clients, who need not learn an address.
    cookie = hashlib.sha256(backend.id.encode()).hexdigest()[:16]
    weight = 0 if draining else backend.weight
    # One without an address keeps its server, under its name, so that no other one changes its place.
    host = addresses[0] if addresses else backend.host
    labels = Labels(backend.labels)
    return BackendView(id_, host, backend.port, weight, draining, cookie, labels, backend, usable=bool(addresses))


def _claims_by_name(config: HAProxyConfig, names: Mapping[str, str], problems: list[str]) -> tuple[Claim, ...]:
    """Every service by the host names `<service>` and `<service>.*`; a lone one takes everything."""
    hosts: dict[str, str] = {}
    for service in names:
        taken_by = hosts.setdefault(service.lower(), service)
        if taken_by != service:
            problems.append(f"service {service!r} has no route: its host name is that of {taken_by!r}")
    return tuple(
        Claim(service, bind.address, "http", (host, f"{host}.*") if len(names) > 1 else (), (), bind.accept_proxy)
        for host, service in hosts.items()
        for bind in config.bind
    )


def _frontends(
    config: HAProxyConfig, configs: Mapping[str, ServiceConfig], names: Mapping[str, str], claims: Iterable[Claim]
) -> list[tuple[FrontendView, tuple[str, ...], tuple[Route, ...]]]:
    """A frontend for each set of services that share addresses, with its addresses and routes."""
    groups: defaultdict[tuple[str, ...], list[tuple[str, tuple[Claim, ...]]]] = defaultdict(list)
    for address, group in by_address(claims).items():
        groups[tuple(claim.service for claim in group)].append((address, group))
    if not config.services and not groups:  # the bare command before any service: it answers 503
        groups[()] = [(bind.address, ()) for bind in config.bind]
    labels = {members: members[0] if len(members) == 1 else addresses[0][0] for members, addresses in groups.items()}
    unique = _unique_names(labels.values())
    frontends = []
    for members, shared in sorted(groups.items(), key=lambda item: labels[item[0]]):
        addresses = tuple(address for address, _ in shared)
        wanted = routes(shared[0][1])
        conditional = tuple(route for route in wanted if not route.is_default)
        view = FrontendView(
            name=unique[labels[members]],
            mode=configs[members[0]].mode if members else "http",
            binds=tuple(_bind(config, configs, members, address) for address in addresses),
            routes=tuple(RouteView(names[route.service], _condition(route)) for route in conditional),
            default=next((names[route.service] for route in wanted if route.is_default), None),
            by_host=any(route.host != EVERYTHING for route in conditional),
            maxconn=configs[members[0]].maxconn if len(members) == 1 else None,
            timeouts=_longest(config.timeouts, [configs[member].timeouts for member in members]),
            lines=tuple(line for member in members for line in configs[member].frontend_lines),
        )
        frontends.append((view, addresses, wanted))
    return frontends


def _bind(
    config: HAProxyConfig, configs: Mapping[str, ServiceConfig], members: Sequence[str], address: str
) -> BindView:
    """One address, with what all who share it ask for."""
    wanted = [bind for member in members for bind in configs[member].bind or config.bind] or list(config.bind)
    asked: list[BindConfig] = [bind for bind in wanted if bind.address == address]
    senders = dict.fromkeys(sender for bind in asked for sender in bind.accept_proxy)
    return BindView(
        address,
        tuple(dict.fromkeys(path for bind in asked for path in bind.certificate)),
        UNIX in senders and address.startswith("/"),
        tuple(sender for sender in senders if sender != UNIX and not address.startswith("/")),
        tuple(dict.fromkeys(bind.options for bind in asked if bind.options)),
    )


def _condition(route: Route) -> Raw:
    """HAProxy's condition for the route, `path` meaning itself and all below it."""
    host = ""
    if route.host.startswith("*."):
        host = f"{{ var(txn.host) -m end -- {argument(route.host[1:])} }}"
    elif route.host.endswith(".*"):
        host = f"{{ var(txn.host) -m beg -- {argument(route.host[:-1])} }}"
    elif route.host != EVERYTHING:
        host = f"{{ var(txn.host) -m str -- {argument(route.host)} }}"
    if route.path == ROOT:
        return Raw(f"if {host}")
    itself, below = argument(route.path), argument(f"{route.path}/")
    return Raw(f"if {host} {{ path -m str -- {itself} }} or {host} {{ path -m beg -- {below} }}".replace("  ", " "))


def _timeouts(timeouts: Timeouts, kinds: Iterable[str]) -> Settings:
    given = ((kind.replace("_", "-"), getattr(timeouts, kind)) for kind in kinds)
    return tuple((kind, time) for kind, time in given if time is not None)


def _longest(defaults: Timeouts, wanted: Sequence[Timeouts]) -> Settings:
    """The timeouts of a shared frontend: for each kind the longest that one of its services has."""
    settings = []
    for kind in _FRONTEND_TIMEOUTS:
        default = getattr(defaults, kind)
        times = [getattr(timeouts, kind) or default for timeouts in wanted]
        longest = max(times, key=milliseconds, default=default)
        if longest != default:
            settings.append((kind.replace("_", "-"), longest))
    return tuple(settings)


def _unique_names(texts: Iterable[str]) -> dict[str, str]:
    """For each text a name that HAProxy takes, different from all others and independent of them."""
    return {text: _name(text) for text in texts}


def _name(text: str) -> str:
    # A text that looks as if it had been given a hash is given one too, so that it cannot pose as another's name.
    if _NAME.fullmatch(text) and not _LOOKS_HASHED.fullmatch(text):
        return text
    readable = re.sub(r"[^A-Za-z0-9_.:-]", "_", text[:64])
    return f"{readable}-{hashlib.sha256(text.encode(errors='surrogatepass')).hexdigest()[:16]}"


def _mapping(mode: str, address: str, route: Route, service: ServiceView) -> str:
    count = len(service.backends)
    what = "" if route.is_default else f" {route.host}{'' if route.path == ROOT else route.path}"
    without = sum(not backend.usable for backend in service.backends)
    but = f", {without} without an address" if without else ""
    return f"{route.service}  {mode} {address}{what} -> {count} backend{'' if count == 1 else 's'}{but}"
