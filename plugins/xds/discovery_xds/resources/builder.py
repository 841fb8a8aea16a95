"""The catalog of resources for successive snapshots: what is unchanged is neither built nor serialized again."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from discovery import Backend, Service, Update, describe
from discovery.fields import has_labels
from discovery.routing import Route, group_by_address, routes
from discovery_xds.config import ServiceConfig, XdsConfig
from discovery_xds.protocol.catalog import Catalog, Kind, Resource
from discovery_xds.protocol.messages import resource_of
from discovery_xds.resources.claims import claims_of
from discovery_xds.resources.clusters import client_cluster, envoy_cluster
from discovery_xds.resources.endpoints import AddressesOf, Endpoints
from discovery_xds.resources.listeners import RouteConfigurations, api_listener, http_listener, tcp_listener
from discovery_xds.resources.names import grpc_cluster

_NO_OPTIONS = ServiceConfig()
"""Options of a service that is not configured."""
_NO_SERVICE = Service("")


class _Built(NamedTuple):
    """The endpoints of a service, and the input of their construction."""

    service: Service
    addresses: tuple[tuple[str, ...], ...]
    resource: Resource
    problem: str = ""


class _Fixed(NamedTuple):
    """The resources of a service that follow from its options alone."""

    envoy: Resource
    client: Resource
    listener: Resource


class Builder:
    """Builds catalogs for a configuration. `built` counts the endpoints of services that were built."""

    def __init__(self, config: XdsConfig) -> None:
        """Begin without a snapshot."""
        self._config = config
        self._names: frozenset[str] | None = None
        self._outline: Mapping[Kind, Mapping[str, Resource]] = {}
        self._outline_problems: Mapping[str, str] = {}
        self._routes = RouteConfigurations()
        self._fixed: dict[str, _Fixed] = {}
        self._makers: dict[str, Endpoints] = {}
        self._endpoints: dict[str, _Built] = {}
        self.built = 0
        self.problems: Mapping[str, str] = {}
        """Faults of single services: the reason by the name, as in `Health`."""

    def build(self, update: Update) -> Catalog:
        """Return the catalog for a snapshot. A service that cannot be built keeps its last endpoints."""
        services = update.snapshot.services
        configs = self._config.services or dict.fromkeys(services, _NO_OPTIONS)
        names = frozenset(configs)
        if names != self._names:
            self._outline, self._outline_problems = self._make_outline(configs)
            self._names = names
            self._makers = {name: maker for name, maker in self._makers.items() if name in names}
        endpoints: dict[str, _Built] = {}
        problems = dict(self._outline_problems)
        for name, config in configs.items():
            service = services.get(config.service or name, _NO_SERVICE)
            built = self._endpoints_of(name, config, service, update.addresses_of)
            if built is not None:
                endpoints[name] = built
                problems |= {f"service {name}": built.problem} if built.problem else {}
            else:
                problems[f"service {name}"] = "it is left out: its backends cannot be described"
        unchanged = endpoints.keys() == self._endpoints.keys() and all(
            built.resource is self._endpoints[name].resource for name, built in endpoints.items()
        )
        if not unchanged or Kind.ENDPOINTS not in self._outline:
            resources = {name: built.resource for name, built in endpoints.items()}
            self._outline = {**self._outline, Kind.ENDPOINTS: resources}
        self._endpoints = endpoints
        self.problems = problems
        return Catalog(update.snapshot.revision, self._outline)

    def _endpoints_of(
        self, name: str, config: ServiceConfig, service: Service, addresses_of: AddressesOf
    ) -> _Built | None:
        """Return the endpoints of a service; those of before if they cannot be built, and None if there are none."""
        before = self._endpoints.get(name)
        same = before is not None and before.service is service
        if before is not None and same and not before.addresses:
            return before
        named = tuple(addresses_of(each) for run in service.runs for each in run if each.is_named)
        if before is not None and same and before.addresses == named:
            return before
        try:
            return self._build_endpoints(name, config, service, named, addresses_of)
        except Exception as error:  # noqa: BLE001 - one service that cannot be built leaves all others as they are
            if before is None:
                return None
            return before._replace(problem=f"it has its former endpoints: {describe(error)}")

    def _build_endpoints(
        self,
        name: str,
        config: ServiceConfig,
        service: Service,
        named: tuple[tuple[str, ...], ...],
        addresses_of: AddressesOf,
    ) -> _Built:
        maker = self._makers.get(name)
        if maker is None:
            port = config.check.port if config.check is not None else None
            maker = self._makers[name] = Endpoints(name, self._config.locality, port)
        backends: Iterable[Backend] = service.backends
        if config.labels:
            backends = [each for each in backends if has_labels(each.labels, config.labels)]
        assignment = maker.build(backends, addresses_of)
        self.built += 1
        problem = ""
        if assignment.unresolved:
            problem = f"no address is known for {', '.join(sorted(set(assignment.unresolved))[:5])}"
        before = self._endpoints.get(name)
        resource = resource_of(Kind.ENDPOINTS, name, assignment.contents)
        if before is not None and before.resource.version == resource.version:
            resource = before.resource
        return _Built(service, named, resource, problem)

    def _make_outline(
        self, configs: Mapping[str, ServiceConfig]
    ) -> tuple[dict[Kind, Mapping[str, Resource]], Mapping[str, str]]:
        """Return all resources but endpoints, which follow from the options and the names of services."""
        claims, problems = claims_of(self._config, configs)
        clusters: dict[str, Resource] = {}
        listeners: dict[str, Resource] = {}
        routing: dict[str, Resource] = {}
        self._fixed = {name: self._fixed.get(name) or _fixed(name, each) for name, each in configs.items()}
        for fixed in self._fixed.values():
            clusters |= {each.name: each for each in (fixed.envoy, fixed.client)}
            listeners[fixed.listener.name] = fixed.listener
        grouped = group_by_address(claims)
        nowhere = () if self._config.services else self._config.bind  # as the plugin haproxy: 404 while there is none
        http: dict[str, tuple[Route, ...]] = {}
        for bind in grouped or dict.fromkeys(nowhere):
            group = grouped.get(bind, ())
            if group and group[0].mode == "tcp":
                contents = tcp_listener(bind, group[0].service, configs[group[0].service])
            else:
                contents, http[bind] = http_listener(bind), routes(group)
            listeners[bind] = resource_of(Kind.LISTENER, bind, contents)
        for bind, contents in self._routes.build(http, configs):
            routing[bind] = resource_of(Kind.ROUTES, bind, contents)
        return {Kind.CLUSTER: clusters, Kind.LISTENER: listeners, Kind.ROUTES: routing}, problems


def _fixed(name: str, config: ServiceConfig) -> _Fixed:
    return _Fixed(
        resource_of(Kind.CLUSTER, name, envoy_cluster(name, config), needs=name),
        resource_of(Kind.CLUSTER, grpc_cluster(name), client_cluster(name, config), listed=False, needs=name),
        resource_of(Kind.LISTENER, name, api_listener(name, config), listed=False),
    )
