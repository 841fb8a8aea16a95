"""TLS of Envoy's listeners and clusters: the contexts, and the secrets that the contexts name.

A secret has the paths of files on Envoy's machine. So no key is read here or sent, and Envoy reads the files again when
others are renamed into their places: connections go on, and new connections have the new certificate.
"""

from typing import Any

from envoy.config.core.v3 import base_pb2
from envoy.extensions.transport_sockets.tls.v3 import common_pb2, secret_pb2, tls_pb2

from discovery import Backend
from discovery_xds.config import BackendTlsConfig, ListenerTls
from discovery_xds.protocol.catalog import Kind, Resource
from discovery_xds.protocol.messages import resource_of
from discovery_xds.resources.sources import ads

_TRANSPORT_SOCKET = "envoy.transport_sockets.tls"
_SAN = common_pb2.SubjectAltNameMatcher
_HTTP_PROTOCOLS = ("h2", "http/1.1")
"""Protocols that clients of a listener for HTTP may choose from (ALPN), in the order of preference."""


def secrets_of_listener(tls: ListenerTls) -> tuple[Resource, ...]:
    """Return the secrets that a listener names."""
    authority = (_authority(tls.client_ca),) if tls.client_ca else ()
    return (*map(_certificate, tls.certificates), *authority)


def secrets_of_backends(tls: BackendTlsConfig) -> tuple[Resource, ...]:
    """Return the secrets that a cluster names."""
    own = (_certificate(str(tls.certificate)),) if tls.certificate else ()
    return (*own, _authority(str(tls.ca)))


def listener_socket(tls: ListenerTls, *, http: bool) -> Any:
    """Return the transport socket of a listener with certificates."""
    context = tls_pb2.DownstreamTlsContext()
    common = context.common_tls_context
    for path in tls.certificates:
        _add_certificate(common, path)
    if tls.client_ca:
        context.require_client_certificate.value = True
        _name(common.validation_context_sds_secret_config, _authority_name(tls.client_ca))
    if http:
        common.alpn_protocols.extend(_HTTP_PROTOCOLS)
    return _socket(context)


def backend_socket(tls: BackendTlsConfig, *, http2: bool) -> Any:
    """Return the transport socket of a cluster. Backends need a certificate of the CA with the configured name."""
    context = tls_pb2.UpstreamTlsContext()
    is_named = Backend("xds", "xds", tls.name, 1).is_named
    if is_named:
        context.sni = tls.name
    common = context.common_tls_context
    if tls.certificate:
        _add_certificate(common, str(tls.certificate))
    combined = common.combined_validation_context
    name = combined.default_validation_context.match_typed_subject_alt_names.add()
    name.san_type, name.matcher.exact = (_SAN.DNS if is_named else _SAN.IP_ADDRESS), tls.name
    _name(combined.validation_context_sds_secret_config, _authority_name(str(tls.ca)))
    if http2:
        common.alpn_protocols.append("h2")
    return _socket(context)


def _socket(context: Any) -> Any:
    socket = base_pb2.TransportSocket(name=_TRANSPORT_SOCKET)
    socket.typed_config.Pack(context, deterministic=True)
    return socket


def _certificate_name(path: str) -> str:
    return f"certificate:{path}"


def _authority_name(path: str) -> str:
    return f"ca:{path}"


def _add_certificate(common: Any, path: str) -> None:
    _name(common.tls_certificate_sds_secret_configs.add(), _certificate_name(path))


def _name(reference: Any, name: str) -> None:
    reference.name = name
    reference.sds_config.CopyFrom(ads())


def _certificate(path: str) -> Resource:
    """Return the secret of a file that has a certificate, its chain and its key."""
    secret = secret_pb2.Secret(name=_certificate_name(path))
    secret.tls_certificate.certificate_chain.filename = path
    secret.tls_certificate.private_key.filename = path
    return resource_of(Kind.SECRET, secret.name, secret.SerializeToString())


def _authority(path: str) -> Resource:
    """Return the secret of a file that has certificates of CAs."""
    secret = secret_pb2.Secret(name=_authority_name(path))
    secret.validation_context.trusted_ca.filename = path
    return resource_of(Kind.SECRET, secret.name, secret.SerializeToString())
