"""Bootstrap configurations of xDS clients: Envoy and gRPC programs; pure."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from discovery import Backend, split_host_port

_CLUSTER = "discovery"
"""Name of the static cluster of the xDS server in Envoy."""
_CONNECT_SECONDS = 5
"""Seconds for a connection to the xDS server."""
_KEEPALIVE_SECONDS = 30
"""Seconds after which Envoy asks a silent xDS server for a sign of life."""
_KEEPALIVE_TIMEOUT_SECONDS = 10
"""Seconds until Envoy connects again if no sign of life comes."""


class ClientTls(NamedTuple):
    """TLS of a client: the CA of the server, and with mTLS the client's own certificate and key.

    `server_name` is the name in the server's certificate, if that is not the host of the server's address.
    """

    ca: Path
    certificate: Path | None = None
    key: Path | None = None
    server_name: str | None = None


class Node(NamedTuple):
    """The identity of a client: `id` appears in health, log and `inspect`."""

    id: str
    cluster: str = "discovery"
    region: str = ""
    zone: str = ""

    @property
    def document(self) -> dict[str, Any]:
        """The node in the form of xDS clients."""
        locality = {key: value for key, value in (("region", self.region), ("zone", self.zone)) if value}
        return {"id": self.id, "cluster": self.cluster, **({"locality": locality} if locality else {})}


def envoy(
    server: str, node: Node, *, tls: ClientTls | None = None, admin: str | None = None, sotw: bool = False
) -> str:
    """Return a bootstrap of Envoy as JSON, which is YAML as well.

    `server` is the address of the xDS server, and `admin` that of Envoy's own admin port. Envoy follows by the delta
    protocol unless `sotw`.
    """
    source = {"ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "0s"}
    document: dict[str, Any] = {
        "node": node.document,
        "dynamic_resources": {
            "ads_config": {
                "api_type": "GRPC" if sotw else "DELTA_GRPC",
                "transport_api_version": "V3",
                "set_node_on_first_message_only": True,
                "grpc_services": [{"envoy_grpc": {"cluster_name": _CLUSTER}}],
            },
            "cds_config": source,
            "lds_config": source,
        },
        "static_resources": {"clusters": [_server_cluster(server, tls)]},
    }
    if admin is not None:
        document["admin"] = {"address": _socket_address(admin)}
    return json.dumps(document, indent=2)


def grpc(server: str, node: Node, *, tls: ClientTls | None = None) -> str:
    """Return a bootstrap of gRPC programs as JSON."""
    credentials: dict[str, Any] = {"type": "insecure"}
    if tls is not None:
        files = {
            "ca_certificate_file": tls.ca,
            "certificate_file": tls.certificate,
            "private_key_file": tls.key,
        }
        credentials = {
            "type": "tls",
            "config": {name: str(path) for name, path in files.items() if path is not None},
        }
    servers = [{"server_uri": server, "channel_creds": [credentials], "server_features": ["xds_v3"]}]
    return json.dumps({"xds_servers": servers, "node": node.document}, indent=2)


def _server_cluster(server: str, tls: ClientTls | None) -> dict[str, Any]:
    host, port = split_host_port(server)
    cluster: dict[str, Any] = {
        "name": _CLUSTER,
        "type": "STRICT_DNS" if Backend("xds", "xds", host, port).is_named else "STATIC",
        "connect_timeout": f"{_CONNECT_SECONDS}s",
        "load_assignment": {
            "cluster_name": _CLUSTER,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _socket_address(server)}}]}],
        },
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {
                    "http2_protocol_options": {
                        "connection_keepalive": {
                            "interval": f"{_KEEPALIVE_SECONDS}s",
                            "timeout": f"{_KEEPALIVE_TIMEOUT_SECONDS}s",
                        }
                    }
                },
            }
        },
    }
    if tls is not None:
        cluster["transport_socket"] = {
            "name": "envoy.transport_sockets.tls",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
                "sni": tls.server_name or host,
                "common_tls_context": _tls_context(tls, tls.server_name or host),
            },
        }
    return cluster


def _tls_context(tls: ClientTls, name: str) -> dict[str, Any]:
    is_address = not Backend("xds", "xds", name, 1).is_named
    context: dict[str, Any] = {
        "alpn_protocols": ["h2"],
        "validation_context": {
            "trusted_ca": {"filename": str(tls.ca)},
            "match_typed_subject_alt_names": [
                {"san_type": "IP_ADDRESS" if is_address else "DNS", "matcher": {"exact": name}}
            ],
        },
    }
    if tls.certificate is not None and tls.key is not None:
        context["tls_certificates"] = [
            {"certificate_chain": {"filename": str(tls.certificate)}, "private_key": {"filename": str(tls.key)}}
        ]
    return context


def _socket_address(address: str) -> dict[str, Any]:
    host, port = split_host_port(address)
    return {"socket_address": {"address": host, "port_value": port}}
