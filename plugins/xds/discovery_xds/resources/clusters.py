"""Clusters: how clients balance, check and reach the backends of a service."""

from typing import Any

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.core.v3 import health_check_pb2
from envoy.extensions.upstreams.http.v3 import http_protocol_options_pb2
from envoy.type.v3 import http_pb2, range_pb2

from discovery_xds.config import CheckConfig, ServiceConfig
from discovery_xds.resources.names import grpc_cluster
from discovery_xds.resources.secrets import backend_socket
from discovery_xds.resources.sources import ads

_CONNECT_SECONDS = 5
"""Seconds for a connection to a backend, as in the plugin haproxy."""
_CHECK_SHARE = 1 / 2
"""Share of a check's interval in which a backend must answer, as in the plugin haproxy."""
_CHECK_MOST_SECONDS = 5.0
"""Longest time in seconds for the answer to a check: nothing healthy takes longer."""
_CHECK_LEAST_SECONDS = 0.1
"""Shortest time in seconds for the answer to a check: less is lost to a machine's load alone."""
_FAST_SHARE = 1 / 4
"""Share of a check's interval from a failed check to the next check, as in the plugin haproxy."""
_MERGE_MILLISECONDS = 20
"""Milliseconds in which Envoy merges the outcomes of checks. Its default is 1 s, after which a new backend is asked.

Each time Envoy computes its order of all backends again, so that none at all is much for thousands of new backends.
"""
_UNLIMITED = 2**32 - 1
"""The largest limit of the Envoy API, so that the limit of open files is the limit."""
_HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_POLICIES = {
    "roundrobin": cluster_pb2.Cluster.ROUND_ROBIN,
    "static-rr": cluster_pb2.Cluster.ROUND_ROBIN,
    "leastconn": cluster_pb2.Cluster.LEAST_REQUEST,
    "random": cluster_pb2.Cluster.RANDOM,
}


def envoy_cluster(name: str, config: ServiceConfig) -> bytes:
    """Return Envoy's cluster of the service `name`, serialized."""
    cluster = _cluster(name, name, _POLICIES.get(config.balance, cluster_pb2.Cluster.RING_HASH))
    cluster.connect_timeout.FromSeconds(_CONNECT_SECONDS)
    # A backend that left the registry gets no more requests, whatever its check says.
    cluster.ignore_health_on_host_removal = True
    # Traffic goes to unchecked backends if there are no others, as after a change of all backends, but not before.
    cluster.common_lb_config.healthy_panic_threshold.value = 1
    cluster.common_lb_config.update_merge_window.FromMilliseconds(_MERGE_MILLISECONDS)
    if config.check is not None:
        cluster.health_checks.append(_health_check(config.check, http2=config.http2))
    if config.backend_tls is not None:
        cluster.transport_socket.CopyFrom(backend_socket(config.backend_tls, http2=config.http2))
    if config.http2:
        options = http_protocol_options_pb2.HttpProtocolOptions()
        options.explicit_http_config.http2_protocol_options.SetInParent()
        cluster.typed_extension_protocol_options[_HTTP_OPTIONS].Pack(options, deterministic=True)
    return bytes(cluster.SerializeToString(deterministic=True))


def client_cluster(name: str, config: ServiceConfig) -> bytes:
    """Return the cluster of the service `name` for gRPC clients, serialized.

    It has what every implementation of gRPC accepts: the policies round robin and ring hash.
    """
    by_header = config.balance.startswith("hdr")
    policy = cluster_pb2.Cluster.RING_HASH if by_header else cluster_pb2.Cluster.ROUND_ROBIN
    return bytes(_cluster(grpc_cluster(name), name, policy).SerializeToString(deterministic=True))


def _cluster(name: str, endpoints: str, policy: Any) -> Any:
    cluster = cluster_pb2.Cluster(name=name, type=cluster_pb2.Cluster.EDS, lb_policy=policy)
    cluster.eds_cluster_config.eds_config.CopyFrom(ads())
    if endpoints != name:
        cluster.eds_cluster_config.service_name = endpoints
    # The defaults of Envoy and gRPC are 1,024 requests or connections at a time, beyond which requests fail, and of
    # Envoy 3 requests that are repeated at a time, which are more when a backend dies.
    limits = cluster.circuit_breakers.thresholds.add()
    for limit in (limits.max_connections, limits.max_pending_requests, limits.max_requests, limits.max_retries):
        limit.value = _UNLIMITED
    return cluster


def _health_check(config: CheckConfig, *, http2: bool) -> Any:
    check = health_check_pb2.HealthCheck()
    timeout = max(_CHECK_LEAST_SECONDS, min(_CHECK_MOST_SECONDS, config.interval * _CHECK_SHARE))
    for duration, seconds in (
        (check.timeout, timeout),
        (check.interval, config.interval),
        (check.unhealthy_interval, config.interval),
        (check.unhealthy_edge_interval, config.interval * _FAST_SHARE),
        (check.healthy_edge_interval, config.interval * _FAST_SHARE),
        (check.no_traffic_interval, config.interval),
    ):
        duration.FromNanoseconds(round(max(0.001, seconds) * 1e9))
    check.unhealthy_threshold.value = config.fall
    check.healthy_threshold.value = config.rise
    if config.path is None:
        check.tcp_health_check.SetInParent()
        if config.send:
            check.tcp_health_check.send.text = config.send.encode().hex()
        if config.expect:
            check.tcp_health_check.receive.add(text=config.expect.encode().hex())
        return check
    http = check.http_health_check
    http.path, http.host = config.path, config.host
    http.method = _method(config.method)
    if http2:
        http.codec_client_type = http_pb2.HTTP2
    http.expected_statuses.extend(range_pb2.Int64Range(start=low, end=high) for low, high in config.statuses)
    return check


def _method(name: str) -> Any:
    from envoy.config.core.v3 import base_pb2

    return base_pb2.RequestMethod.Value(name)
