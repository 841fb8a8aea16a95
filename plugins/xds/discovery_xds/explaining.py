"""What clients get of a backend, and what they say of it: clusters, endpoints, acknowledgements; without I/O."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from discovery import Backend, LeftOut, join_host_port
from discovery.fields import has_labels
from discovery_xds.config import ServiceConfig, XdsConfig
from discovery_xds.protocol.catalog import Catalog, Kind
from discovery_xds.protocol.stream import Stream
from discovery_xds.resources.builder import Builder
from discovery_xds.resources.endpoints import Standing
from discovery_xds.resources.names import grpc_cluster
from discovery_xds.serving.acknowledgements import acknowledgements

_PRIORITY = 0
"""The priority of every endpoint: the resources set none."""
_MOST_NAMED = 5
"""Services that are named in a reason."""


def lines_of(
    config: XdsConfig, builder: Builder, catalog: Catalog, streams: Iterable[Stream], backends: Iterable[Backend]
) -> dict[str, Sequence[str]]:
    """Return the lines for each of `backends`, by key, as `Consumer.explain` does.

    `builder` has built `catalog`, and `streams` are those of the clients.
    """
    every = tuple(streams)
    known: dict[str, tuple[_Cluster, ...]] = {}
    found: dict[str, Sequence[str]] = {}
    for backend in backends:
        service = backend.service
        if service not in known:
            known[service] = tuple(
                _Cluster(name, options, builder, catalog, every) for name, options in _configured(config, service)
            )
        takes = [each for each in known[service] if has_labels(backend.labels, each.options.labels)]
        lines = tuple(line for each in takes for line in each.lines(backend))
        found[backend.key] = lines or LeftOut(_why_left_out(config, service, known[service]))
    return found


class _Cluster:
    """A configured service: its endpoints, and what the clients say of it."""

    def __init__(
        self, name: str, options: ServiceConfig, builder: Builder, catalog: Catalog, streams: Iterable[Stream]
    ) -> None:
        self.name, self.options = name, options
        self._standing: Mapping[str, Standing] = builder.standing(name)
        self._common = tuple(self._told(builder.problems.get(f"service {name}"), catalog, streams))

    def lines(self, backend: Backend) -> Iterator[str]:
        """Yield the backend's endpoint, or why it has none, and what clients say of the cluster."""
        yield f"cluster {self.name}: {self._endpoint(backend)}"
        yield from self._common

    def _endpoint(self, backend: Backend) -> str:
        if not backend.accepts_work:
            return "no endpoint: it gets no new work"
        standing = self._standing.get(backend.id)
        if standing is None:
            return f"no endpoint: no address is known for {backend.host}" if backend.is_named else "no endpoint yet"
        at = ", ".join(join_host_port(each, standing.port) for each in standing.addresses)
        place = "/".join(filter(None, standing.locality))
        shared = "" if standing.only else ", one for all backends at this address"
        return f"endpoint {at} weight {standing.weight} priority {_PRIORITY}{place and f' locality {place}'}{shared}"

    def _told(self, problem: str | None, catalog: Catalog, streams: Iterable[Stream]) -> Iterator[str]:
        if problem is not None:
            yield f"cluster {self.name}: {problem}"
        for cluster in (self.name, grpc_cluster(self.name)):
            for each in acknowledgements(catalog, Kind.CLUSTER, cluster, streams):
                yield f"cluster {cluster}: {each}"
        resource = catalog.of(Kind.ENDPOINTS).get(self.name)
        if resource is None:
            return
        endpoints = f"endpoints {self.name} at version {resource.version}"
        told = tuple(acknowledgements(catalog, Kind.ENDPOINTS, self.name, streams))
        yield from (f"{endpoints}: {each}" for each in told or ("no connected client asks for them",))


def _configured(config: XdsConfig, service: str) -> Iterator[tuple[str, ServiceConfig]]:
    """Yield the configured services that have the backends of the registry's `service`."""
    if not config.services:
        yield service, ServiceConfig()
    for name, each in config.services.items():
        if (each.service or name) == service:
            yield name, each


def _why_left_out(config: XdsConfig, service: str, clusters: Sequence[_Cluster]) -> str:
    if not clusters:
        names = [each.service or name for name, each in config.services.items()]
        more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
        return f"'services' has no entry for {service!r}, but for {', '.join(names[:_MOST_NAMED])}{more}"
    asked = (
        f"service {each.name} takes backends with the labels "
        + ", ".join(f"{label}={'|'.join(values)}" for label, values in each.options.labels.items())
        for each in clusters[:_MOST_NAMED]
    )
    return "; ".join(asked)
