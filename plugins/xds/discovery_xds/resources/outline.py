"""The resources that follow from the options and the names of services alone: all resources but endpoints.

A part that cannot be built hurts itself alone: its last good resources stay, and the fault is a problem.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple, TypeVar

from discovery import describe
from discovery.routing import AddressClaim, group_by_address
from discovery_xds.config import ListenerTls, ServiceConfig, XdsConfig
from discovery_xds.protocol.catalog import Kind, Resource
from discovery_xds.protocol.messages import resource_of
from discovery_xds.resources.claims import claims_of
from discovery_xds.resources.clusters import client_cluster, envoy_cluster
from discovery_xds.resources.listeners import (
    RouteConfigurations,
    api_listener,
    bare_action,
    http_listener,
    route_action,
    tcp_listener,
)
from discovery_xds.resources.names import grpc_cluster
from discovery_xds.resources.problems import Problems
from discovery_xds.resources.secrets import secrets_of_backends, secrets_of_listener

Last = Callable[[Kind, str], Resource | None]
"""Returns a resource of the catalog before; None if there was none."""
T = TypeVar("T")


class Outline(NamedTuple):
    """All resources but endpoints. `is_faulty` is True if a part could not be built."""

    resources: Mapping[Kind, Mapping[str, Resource]]
    problems: Problems
    is_faulty: bool


class _Made(NamedTuple):
    """The resources of a service or of a listener, with their secrets."""

    resources: tuple[tuple[Kind, Resource], ...]
    action: Any = None
    """What Envoy does with a request to the service."""


class OutlineBuilder:
    """Builds outlines for a configuration."""

    def __init__(self, config: XdsConfig) -> None:
        """Begin without services."""
        self._config = config
        self._services: dict[str, _Made] = {}
        self._routes = RouteConfigurations()

    def build(self, configs: Mapping[str, ServiceConfig], last: Last) -> Outline:
        """Return the outline of the services in `configs`."""
        claims, conflicts = claims_of(self._config, configs)
        run = _Run(Problems(conflicts), last)
        known, self._services = self._services, {}
        actions: dict[str, Any] = {}
        for name, config in configs.items():
            made = known.get(name) or run.attempt(f"service {name}", partial(_of_service, name, config))
            if made is not None:
                self._services[name] = made
                run.add(made.resources)
            else:
                run.keep((Kind.CLUSTER, name), (Kind.CLUSTER, grpc_cluster(name)), (Kind.LISTENER, name))
            actions[name] = made.action if made is not None else bare_action(name)
        self._add_listeners(run, configs, group_by_address(claims), actions)
        if run.is_faulty:
            self._routes = RouteConfigurations()  # what is kept may lead to what could not be built
        return Outline(run.found, run.problems, run.is_faulty)

    def _add_listeners(
        self,
        run: "_Run",
        configs: Mapping[str, ServiceConfig],
        grouped: Mapping[str, tuple[AddressClaim, ...]],
        actions: Mapping[str, Any],
    ) -> None:
        """Add Envoy's listeners with their secrets and routes."""
        tls = self._config.listeners
        nowhere = () if self._config.services else tls  # as the plugin haproxy: 404 while there is no service
        self._routes.begin()
        for bind in grouped or dict.fromkeys(nowhere):
            claims = grouped.get(bind, ())
            what = f"listener {bind}"
            service = claims[0].service if claims and claims[0].mode == "tcp" else None
            made = run.attempt(what, partial(_of_listener, bind, tls[bind], service, configs))
            run.add(made.resources) if made is not None else run.keep((Kind.LISTENER, bind))
            if service is None:
                contents = run.attempt(what, partial(self._routes.build, bind, claims, actions))
                if contents is not None:
                    run.add(((Kind.ROUTES, resource_of(Kind.ROUTES, bind, contents)),))
                else:
                    run.keep((Kind.ROUTES, bind))


class _Run:
    """The construction of one outline: what is found, and what could not be built."""

    def __init__(self, problems: Problems, last: Last) -> None:
        self.problems = problems
        self.is_faulty = False
        self.found: dict[Kind, dict[str, Resource]] = {kind: {} for kind in Kind if kind is not Kind.ENDPOINTS}
        self._last = last

    def attempt(self, what: str, make: Callable[[], T]) -> T | None:
        """Return what `make` returns; None, and a problem of `what`, if it raises."""
        try:
            return make()
        except Exception as error:  # noqa: BLE001 - one part that cannot be built leaves all others as they are
            self.is_faulty = True
            self.problems.add(what, f"it is served as before, or not at all: {describe(error)}")
            return None

    def add(self, resources: Iterable[tuple[Kind, Resource]]) -> None:
        """Add resources."""
        for kind, resource in resources:
            self.found[kind][resource.name] = resource

    def keep(self, *resources: tuple[Kind, str]) -> None:
        """Add what the catalog before has of these resources, with their secrets."""
        for kind, name in resources:
            if (resource := self._last(kind, name)) is not None:
                self.found[kind][name] = resource
                self.keep(*(need for need in resource.needs if need[0] is Kind.SECRET))


def _of_service(name: str, config: ServiceConfig) -> _Made:
    endpoints = (Kind.ENDPOINTS, name)
    secrets = secrets_of_backends(config.backend_tls) if config.backend_tls is not None else ()
    needs = [endpoints, *((Kind.SECRET, each.name) for each in secrets)]
    envoy = resource_of(Kind.CLUSTER, name, envoy_cluster(name, config), needs=needs)
    clients = client_cluster(name, config)
    client = resource_of(Kind.CLUSTER, grpc_cluster(name), clients, listed=False, needs=[endpoints])
    listener = resource_of(Kind.LISTENER, name, api_listener(name, config), listed=False)
    resources = (Kind.CLUSTER, envoy), (Kind.CLUSTER, client), (Kind.LISTENER, listener)
    return _Made((*resources, *((Kind.SECRET, each) for each in secrets)), route_action(name, config))


def _of_listener(bind: str, tls: ListenerTls, service: str | None, configs: Mapping[str, ServiceConfig]) -> _Made:
    """Return the listener at `bind` for HTTP; with `service` for TCP, which goes to that service."""
    contents = http_listener(bind, tls) if service is None else tcp_listener(bind, tls, service, configs[service])
    secrets = secrets_of_listener(tls)
    listener = resource_of(Kind.LISTENER, bind, contents, needs=[(Kind.SECRET, each.name) for each in secrets])
    return _Made(((Kind.LISTENER, listener), *((Kind.SECRET, each) for each in secrets)))
