"""The catalog of resources for successive snapshots: what is unchanged is neither built nor serialized again.

A service that cannot be built hurts itself alone: its last good resources stay, and the fault is a problem.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from discovery import Backend, Service, Update, describe
from discovery.fields import has_labels
from discovery_xds.config import ServiceConfig, XdsConfig
from discovery_xds.protocol.catalog import Catalog, Kind, Resource
from discovery_xds.protocol.messages import resource_of
from discovery_xds.resources.endpoints import AddressesOf, Endpoints, Standing
from discovery_xds.resources.outline import Outline, OutlineBuilder
from discovery_xds.resources.problems import Problems

_NO_OPTIONS = ServiceConfig()
"""Options of a service that is not configured."""
_NO_SERVICE = Service("")
_UNKNOWN = Service("")
"""Stands for the service that endpoints were built from which are to be built again."""


class _Built(NamedTuple):
    """The endpoints of a service, and the input of their construction."""

    service: Service
    addresses: tuple[tuple[str, ...], ...]
    resource: Resource
    problem: str = ""


class _LeftOutError(Exception):
    """A service has no endpoints, because they cannot be built and never were; the message is the reason."""


class Builder:
    """Builds catalogs for a configuration. `built` counts the endpoints of services that were built."""

    def __init__(self, config: XdsConfig, former: Catalog | None = None) -> None:
        """Begin without a snapshot. What cannot be built stays as in `former`, a catalog of another configuration."""
        self._config = config
        self._former = former
        self._names: frozenset[str] | None = None
        self._outlines = OutlineBuilder(config)
        self._outline = Outline({}, Problems(), is_faulty=False)
        self._makers: dict[str, Endpoints] = {}
        self._endpoints: dict[str, _Built] = {}
        self._resources: Mapping[str, Resource] = {}
        """The resources of `_endpoints`: the same object until one of them changes."""
        self.built = 0
        self.problems: Mapping[str, str] = {}
        """Faults of single services and listeners: the reason by the name, as in `Health`."""

    def build(self, update: Update) -> Catalog:
        """Return the catalog for a snapshot."""
        services = update.snapshot.services
        configs = self._config.services or dict.fromkeys(services, _NO_OPTIONS)
        names = frozenset(configs)
        if names != self._names or self._outline.is_faulty:
            self._outline = self._outlines.build(configs, self._last)
            self._names = names
            self._makers = {name: maker for name, maker in self._makers.items() if name in names}
        endpoints: dict[str, _Built] = {}
        problems = Problems(self._outline.problems)
        for name, config in configs.items():
            service = services.get(config.service or name, _NO_SERVICE)
            try:
                built = endpoints[name] = self._endpoints_of(name, config, service, update.addresses_of)
            except _LeftOutError as error:
                problems.add(f"service {name}", str(error))
                continue
            if built.problem:
                problems.add(f"service {name}", built.problem)
        unchanged = endpoints.keys() == self._endpoints.keys() and all(
            built.resource is self._endpoints[name].resource for name, built in endpoints.items()
        )
        if not unchanged:
            self._resources = {name: built.resource for name, built in endpoints.items()}
        self._endpoints = endpoints
        self.problems = problems
        resources = {**self._outline.resources, Kind.ENDPOINTS: self._resources}
        self._former = Catalog(update.snapshot.revision, resources)
        return self._former

    def standing(self, name: str) -> Mapping[str, Standing]:
        """Return the endpoints of the configured service `name` by the ids of their backends."""
        maker = self._makers.get(name)
        return maker.standing() if maker is not None else {}

    def _endpoints_of(self, name: str, config: ServiceConfig, service: Service, addresses_of: AddressesOf) -> _Built:
        """Return the endpoints of a service, or those of before if they cannot be built. Raises _LeftOutError."""
        before = self._endpoints.get(name)
        same = before is not None and before.service is service
        if before is not None and same and not before.addresses:
            return before
        try:
            named = tuple(addresses_of(each) for run in service.runs for each in run if each.is_named)
            if before is not None and same and before.addresses == named:
                return before
            return self._build_endpoints(name, config, service, named, addresses_of)
        except Exception as error:
            resource = self._last(Kind.ENDPOINTS, name)
            if resource is None:
                raise _LeftOutError(f"it has no endpoints: {describe(error)}") from error
            return _Built(_UNKNOWN, (), resource, f"it has its former endpoints: {describe(error)}")

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
        before = self._last(Kind.ENDPOINTS, name)
        resource = resource_of(Kind.ENDPOINTS, name, assignment.contents)
        if before is not None and before.version == resource.version:
            resource = before
        return _Built(service, named, resource, problem)

    def _last(self, kind: Kind, name: str) -> Resource | None:
        """Return the resource of the last catalog; None if there is none."""
        return self._former.of(kind).get(name) if self._former is not None else None
