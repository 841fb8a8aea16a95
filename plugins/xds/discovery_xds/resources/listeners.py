"""Listeners and routes: Envoy's on addresses, and those of gRPC clients, which are named after services."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from envoy.config.core.v3 import address_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.config.route.v3 import route_components_pb2, route_pb2
from envoy.extensions.filters.http.router.v3 import router_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as manager_pb2
from envoy.extensions.filters.network.tcp_proxy.v3 import tcp_proxy_pb2

from discovery import split_host_port
from discovery.fields import UNIX_PREFIX
from discovery.routing import ROOT, AddressClaim, routes
from discovery_xds.config import ListenerTls, ServiceConfig
from discovery_xds.resources.matching import Match, VirtualHost, virtual_hosts
from discovery_xds.resources.names import grpc_cluster
from discovery_xds.resources.secrets import listener_socket
from discovery_xds.resources.sources import ads
from discovery_xds.resources.wire import embedded

_VIRTUAL_HOSTS_FIELD = 2
"""Number of the field `virtual_hosts` of a RouteConfiguration."""
_RETRIES = 3
"""Other backends that are tried, as in the plugin haproxy."""
_RETRY_ON = "connect-failure,refused-stream,reset-before-request"
"""Faults after which no backend can have seen the request."""
_HOST_ATTEMPTS = 5
"""Attempts to choose a backend that has not failed for this request: Envoy's documentation suggests 3 to 5."""
_QUERY = r"\?.*"
"""The query of a path."""
_PREVIOUS_HOSTS = "envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"


def http_listener(bind: str, tls: ListenerTls) -> bytes:
    """Return Envoy's listener for HTTP at `bind`, serialized. Its routes have the same name."""
    manager = manager_pb2.HttpConnectionManager(
        stat_prefix=bind,
        rds=manager_pb2.Rds(config_source=ads(), route_config_name=bind),
        http_filters=[_router()],
        upgrade_configs=[manager_pb2.HttpConnectionManager.UpgradeConfig(upgrade_type="websocket")],
        server_header_transformation=manager_pb2.HttpConnectionManager.PASS_THROUGH,
    )
    manager.use_remote_address.value = True
    manager.http_protocol_options.accept_http_10 = True
    return _listener(bind, tls, "envoy.filters.network.http_connection_manager", manager, http=True)


def tcp_listener(bind: str, tls: ListenerTls, service: str, config: ServiceConfig) -> bytes:
    """Return Envoy's listener for TCP at `bind`, serialized, which leads to the cluster of `service`."""
    proxy = tcp_proxy_pb2.TcpProxy(stat_prefix=bind, cluster=service)
    if config.balance == "source":
        proxy.hash_policy.add().source_ip.SetInParent()
    return _listener(bind, tls, "envoy.filters.network.tcp_proxy", proxy, http=False)


class RouteConfigurations:
    """Builds the routes of Envoy's listeners. An unchanged virtual host is serialized once."""

    def __init__(self) -> None:
        """Begin without routes."""
        self._serialized: dict[VirtualHost, bytes] = {}
        self._known: dict[VirtualHost, bytes] = {}

    def begin(self) -> None:
        """Forget, at the next `begin`, the virtual hosts that are not built until then."""
        self._known, self._serialized = self._serialized, {}

    def build(self, bind: str, claims: Iterable[AddressClaim], actions: Mapping[str, Any]) -> bytes:
        """Return the routes of `bind`, serialized. `actions` has the action of each service: see `route_action`."""
        head = route_pb2.RouteConfiguration(name=bind, ignore_port_in_host_matching=True)
        parts = [head.SerializeToString()]
        for host in virtual_hosts(routes(claims)):
            serialized = self._serialized.get(host) or self._known.get(host) or _virtual_host(host, actions)
            self._serialized[host] = serialized
            parts.append(embedded(_VIRTUAL_HOSTS_FIELD, serialized))
        return b"".join(parts)


def _virtual_host(host: VirtualHost, actions: Mapping[str, Any]) -> bytes:
    message = route_components_pb2.VirtualHost(name=host.pattern, domains=[host.pattern])
    message.routes.extend(_route(match, actions[match.service]) for match in host.matches)
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


def _listener(bind: str, tls: ListenerTls, name: str, network_filter: Any, *, http: bool) -> bytes:
    listener = listener_pb2.Listener(name=bind, address=_address(bind))
    chain = listener.filter_chains.add()
    chain.filters.add(name=name).typed_config.Pack(network_filter, deterministic=True)
    if tls.certificates:
        chain.transport_socket.CopyFrom(listener_socket(tls, http=http))
    return bytes(listener.SerializeToString(deterministic=True))


def _address(bind: str) -> Any:
    if bind.startswith(UNIX_PREFIX):
        return address_pb2.Address(pipe=address_pb2.Pipe(path=bind.removeprefix(UNIX_PREFIX)))
    host, port = split_host_port(bind)
    return address_pb2.Address(socket_address=address_pb2.SocketAddress(address=host, port_value=port))


def route_action(service: str, config: ServiceConfig) -> Any:
    """Return what Envoy does with a request to `service`."""
    action = bare_action(service)
    # Envoy's default ends every answer after 15 s; without a limit a client that waits is not cut off.
    action.timeout.SetInParent()
    retry = action.retry_policy
    retry.retry_on = _RETRY_ON
    retry.num_retries.value = _RETRIES
    retry.host_selection_retry_max_attempts = _HOST_ATTEMPTS
    others = retry.retry_host_predicate.add(name="envoy.retry_host_predicates.previous_hosts")
    others.typed_config.type_url = f"type.googleapis.com/{_PREVIOUS_HOSTS}"
    _add_hash_policy(action, config.balance)
    return action


def bare_action(service: str) -> Any:
    """Return the action of a service without a cluster of its options: Envoy answers 503 while there is no cluster."""
    return route_components_pb2.RouteAction(cluster=service)


def _route(match: Match, action: Any) -> Any:
    route = route_components_pb2.Route()
    if match.path == ROOT:
        route.match.prefix = ROOT
    else:
        route.match.path_separated_prefix = match.path
    if match.host_prefix:
        condition = route.match.headers.add(name=":authority")
        condition.string_match.prefix = match.host_prefix
        condition.string_match.ignore_case = True
    route.route.CopyFrom(action)
    return route


def _add_hash_policy(action: Any, balance: str) -> None:
    """Have requests with the same value go to the same backend, for the algorithms that do so."""
    if balance == "source":
        action.hash_policy.add().connection_properties.source_ip = True
    elif balance == "uri":
        header = action.hash_policy.add().header
        header.header_name = ":path"
        header.regex_rewrite.pattern.regex = _QUERY  # as HAProxy, which takes the part before the question mark
    elif name := re.fullmatch(r"hdr\((.+)\)", balance):
        action.hash_policy.add().header.header_name = name[1]
    elif balance.startswith("url_param "):
        action.hash_policy.add().query_parameter.name = balance.removeprefix("url_param ")
