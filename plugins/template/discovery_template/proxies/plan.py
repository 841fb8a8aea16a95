"""What a proxy is to do: listeners, hosts, paths and pools of backends. Pure."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from discovery.fields import has_labels
from discovery.routing import ROOT, AddressClaim, Route, group_by_address, routes
from discovery_template.options.proxy import (
    ProxyConfig,
    ServiceConfig,
    balance_of,
    binds_of,
    claims_of,
)
from discovery_template.printing.views import ServiceView
from discovery_template.proxies.pools import Host, Path_, Pool
from discovery_template.proxies.sections import Section, patterns_over, sections_of


class Listener(NamedTuple):
    """An address to listen on.

    `hosts` are ordered, the most specific first. `sections` say the same in fewer parts, and `routes` one by one.
    """

    address: str
    mode: str
    certificate: Path | None
    hosts: tuple[Host, ...]
    sections: tuple[Section, ...]
    routes: tuple[tuple[Route, Pool], ...]

    @property
    def default(self) -> Section | None:
        """The section for hosts that no other section takes."""
        return next((section for section in self.sections if section.is_default), None)


class Plan(NamedTuple):
    """All listeners and pools."""

    listeners: tuple[Listener, ...]
    pools: tuple[Pool, ...]


def plan_of(config: ProxyConfig, services: Sequence[ServiceView]) -> Plan:
    """Return what the proxy is to do for these services."""
    registered = {service.name: service for service in services}
    if config.services:
        options, claims = config.services, claims_of(config)
    else:
        options = dict.fromkeys(registered, ServiceConfig())
        claims = _claims_by_name(config, list(registered))
    pools = {name: _pool(name, each, registered.get(each.service or name)) for name, each in options.items()}
    grouped = group_by_address(claims)
    if not grouped:
        grouped = {bind.address: () for bind in config.bind}
    certificates = {bind.address: bind.certificate[0] for _, _, bind in binds_of(config) if bind.certificate}
    return Plan(
        tuple(_listener(address, group, pools, certificates.get(address)) for address, group in grouped.items()),
        tuple(pools[name] for name in sorted(pools)),
    )


def _pool(name: str, options: ServiceConfig, service: ServiceView | None) -> Pool:
    backends = service.backends if service else ()
    if options.labels:
        backends = tuple(each for each in backends if has_labels(each.labels, options.labels))
    return Pool(name, options.mode, balance_of(options.balance), options.check, backends)


def _claims_by_name(config: ProxyConfig, names: Sequence[str]) -> tuple[AddressClaim, ...]:
    """Return claims to the host names `<service>` and `<service>.*`; an only service claims every host."""
    hosts: dict[str, str] = {}
    for name in names:
        hosts.setdefault(name.lower(), name)  # `unrouted` tells of the others
    return tuple(
        AddressClaim(name, bind.address, "http", (host, f"{host}.*") if len(hosts) > 1 else ())
        for host, name in hosts.items()
        for bind in config.bind
    )


def unrouted(config: ProxyConfig, names: Sequence[str]) -> Mapping[str, str]:
    """Return the reasons of services that get no requests, by a name for people."""
    taken: dict[str, str] = {}
    found = {}
    for name in names if not config.services else ():
        if (other := taken.setdefault(name.lower(), name)) != name:
            found[f"service {name}"] = f"it has no route: its host name is that of {other!r}"
    return found


def _listener(
    address: str, claims: Sequence[AddressClaim], pools: dict[str, Pool], certificate: Path | None
) -> Listener:
    ordered = routes(claims)
    by_host: defaultdict[str, list[tuple[int, Route]]] = defaultdict(list)
    for at, route in enumerate(ordered):
        by_host[route.host].append((at, route))
    hosts = tuple(
        Host(pattern, Route(pattern, ROOT, "").kind, _paths(pattern, by_host, pools)) for pattern in tuple(by_host)
    )
    mode = claims[0].mode if claims else "http"
    each_with_pool = tuple((route, pools[route.service]) for route in ordered)
    return Listener(address, mode, certificate, hosts, sections_of(hosts), each_with_pool)


def _paths(
    pattern: str, by_host: Mapping[str, Sequence[tuple[int, Route]]], pools: Mapping[str, Pool]
) -> tuple[Path_, ...]:
    """Return the paths for hosts of a pattern, also those of less specific patterns, the longest first.

    A path that lies below a path of a more specific pattern is left out, since the latter takes its requests.
    """
    found: list[Path_] = []
    for _, route in sorted(each for host in patterns_over(pattern) for each in by_host.get(host, ())):
        if not any(_is_below(route.path, each.path) for each in found):
            found.append(Path_(route.path, pools[route.service]))
    return tuple(sorted(found, key=lambda each: -len(each.path)))


def _is_below(path: str, prefix: str) -> bool:
    return prefix in (ROOT, path) or path.startswith(f"{prefix}/")
