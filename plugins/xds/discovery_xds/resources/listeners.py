"""Listeners and routes: Envoy's on addresses, and those of gRPC clients, which are named after services."""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from envoy.config.core.v3 import address_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.config.route.v3 import route_components_pb2, route_pb2
from envoy.extensions.filters.http.router.v3 import router_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as manager_pb2
from envoy.extensions.filters.network.tcp_proxy.v3 import tcp_proxy_pb2

from discovery import split_host_port
from discovery.fields import UNIX_PREFIX
from discovery.routing import ROOT, Route
from discovery_xds.config import ServiceConfig
from discovery_xds.resources.clusters import ads
from discovery_xds.resources.matching import Match, VirtualHost, virtual_hosts
from discovery_xds.resources.names import grpc_cluster
from discovery_xds.resources.wire import embedded

_VIRTUAL_HOSTS_FIELD = 2
"""Number of the field `virtual_hosts` of a RouteConfiguration."""
_RETRIES = 3
"""Other backends that are tried, as in the plugin haproxy."""
_RETRY_ON = "connect-failure,refused-stream,reset-before-request"
"""Faults after which no backend can have seen the request."""
_HOST_ATTEMPTS = 5
"""Attempts to choose a backend that has not failed for this request: Envoy's documentation suggests 3 to 5."""
_PREVIOUS_HOSTS = "envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"


def http_listener(bind: str) -> bytes:
    """Return Envoy's listener for HTTP at `bind`, serialized. Its routes have the same name."""
    manager = manager_pb2.HttpConnectionManager(
        stat_prefix=bind,
        rds=manager_pb2.Rds(config_source=ads(), route_config_name=bind),
        http_filters=[_router()],
        upgrade_configs=[manager_pb2.HttpConnectionManager.UpgradeConfig(upgrade_type="websocket")],
        server_header_transformation=manager_pb2.HttpConnectionManager.PASS_THROUGH,
    )
    manager.use_remote_address.value = True
    return _listener(bind, "envoy.filters.network.http_connection_manager", manager)


def tcp_listener(bind: str, service: str, config: ServiceConfig) -> bytes:
    """Return Envoy's listener for TCP at `bind`, serialized, which leads to the cluster of `service`."""
    proxy = tcp_proxy_pb2.TcpProxy(stat_prefix=bind, cluster=service)
    if config.balance == "source":
        proxy.hash_policy.add().source_ip.SetInParent()
    return _listener(bind, "envoy.filters.network.tcp_proxy", proxy)


class RouteConfigurations:
    """Builds the routes of Envoy's listeners. An unchanged virtual host is serialized once."""

    def __init__(self) -> None:
        """Begin without routes."""
        self._serialized: dict[VirtualHost, bytes] = {}

    def build(
        self, routes: Mapping[str, Iterable[Route]], configs: Mapping[str, ServiceConfig]
    ) -> Iterator[tuple[str, bytes]]:
        """Yield the serialized routes of each bind in `routes`. `configs` has the options of the services."""
        known, self._serialized = self._serialized, {}
        for bind, each in routes.items():
            head = route_pb2.RouteConfiguration(name=bind, ignore_port_in_host_matching=True)
            parts = [head.SerializeToString()]
            for host in virtual_hosts(each):
                serialized = self._serialized.get(host) or known.get(host) or _virtual_host(host, configs)
                self._serialized[host] = serialized
                parts.append(embedded(_VIRTUAL_HOSTS_FIELD, serialized))
            yield bind, b"".join(parts)


def _virtual_host(host: VirtualHost, configs: Mapping[str, ServiceConfig]) -> bytes:
    message = route_components_pb2.VirtualHost(name=host.pattern, domains=[host.pattern])
    message.routes.extend(_route(match, configs[match.service]) for match in host.matches)
    return bytes(message.SerializeToString(deterministic=True))


def api_listener(service: str, config: ServiceConfig) -> bytes:
    """Return the listener of gRPC clients that open `xds:///SERVICE`, serialized."""
    route = route_components_pb2.Route(
        match=route_components_pb2.RouteMatch(prefix=""),
        route=route_components_pb2.RouteAction(cluster=grpc_cluster(service)),
    )
    if config.balance.startswith("hdr"):
        _add_hash_policy(route.route, config.balance)
    manager = manager_pb2.HttpConnectionManager(
        http_filters=[_router()],
        route_config=route_pb2.RouteConfiguration(
            name=service,
            virtual_hosts=[route_components_pb2.VirtualHost(name=service, domains=["*"], routes=[route])],
        ),
    )
    listener = listener_pb2.Listener(name=service)
    listener.api_listener.api_listener.Pack(manager, deterministic=True)
    return bytes(listener.SerializeToString(deterministic=True))


def _router() -> Any:
    router = manager_pb2.HttpFilter(name="envoy.filters.http.router")
    router.typed_config.Pack(router_pb2.Router())
    return router


def _listener(bind: str, name: str, network_filter: Any) -> bytes:
    listener = listener_pb2.Listener(name=bind, address=_address(bind))
    added = listener.filter_chains.add().filters.add(name=name)
    added.typed_config.Pack(network_filter, deterministic=True)
    return bytes(listener.SerializeToString(deterministic=True))


def _address(bind: str) -> Any:
    if bind.startswith(UNIX_PREFIX):
        return address_pb2.Address(pipe=address_pb2.Pipe(path=bind.removeprefix(UNIX_PREFIX)))
    host, port = split_host_port(bind)
    return address_pb2.Address(socket_address=address_pb2.SocketAddress(address=host, port_value=port))


def _route(match: Match, config: ServiceConfig) -> Any:
    route = route_components_pb2.Route()
    if match.path == ROOT:
        route.match.prefix = ROOT
    else:
        route.match.path_separated_prefix = match.path
    if match.host_prefix:
        condition = route.match.headers.add(name=":authority")
        condition.string_match.prefix = match.host_prefix
        condition.string_match.ignore_case = True
    action = route.route
    action.cluster = match.service
    # Envoy's default ends every answer after 15 s; without a limit a client that waits is not cut off.
    action.timeout.SetInParent()
    retry = action.retry_policy
    retry.retry_on = _RETRY_ON
    retry.num_retries.value = _RETRIES
    retry.host_selection_retry_max_attempts = _HOST_ATTEMPTS
    others = retry.retry_host_predicate.add(name="envoy.retry_host_predicates.previous_hosts")
    others.typed_config.type_url = f"type.googleapis.com/{_PREVIOUS_HOSTS}"
    _add_hash_policy(action, config.balance)
    return route


def _add_hash_policy(action: Any, balance: str) -> None:
    """Have requests with the same value go to the same backend, for the algorithms that do so."""
    if balance == "source":
        action.hash_policy.add().connection_properties.source_ip = True
    elif balance == "uri":
        action.hash_policy.add().header.header_name = ":path"
    elif name := re.fullmatch(r"hdr\((.+)\)", balance):
        action.hash_policy.add().header.header_name = name[1]
    elif balance.startswith("url_param "):
        action.hash_policy.add().query_parameter.name = balance.removeprefix("url_param ")
