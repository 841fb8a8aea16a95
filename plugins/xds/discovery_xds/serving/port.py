"""The xDS port: whether the address is free, TLS, and how a successor takes the port over."""

import ipaddress
import os
import socket
import ssl
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from discovery import DiscoveryError, split_host_port
from discovery.toolkit import listen_error_reason
from discovery_xds.config import TlsConfig

if TYPE_CHECKING:
    import grpc


def take_predecessor(address: str, inherited: Iterable[socket.socket]) -> socket.socket | None:
    """Take the predecessor's socket, which listens on `address`, out of `inherited`; None if there is none."""
    for candidate in inherited:
        if _listens_on(candidate, address):
            return socket.socket(fileno=candidate.detach())
    return None


def own_listening_socket(address: str) -> socket.socket | None:
    """Return a copy of the socket of this process that listens on `address`; None if there is none, or no /proc.

    grpcio opens its listening sockets itself, tells nobody, and takes none over. So a successor listens beside its
    predecessor (`SO_REUSEPORT`, which Linux allows to one user alone). The copy tells the successor that the other
    listener is its predecessor, which accepts from the socket until it has ended.
    """
    try:
        descriptors = [int(each.name) for each in Path("/proc/self/fd").iterdir()]
    except OSError:
        return None
    for descriptor in descriptors:
        try:
            if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
                continue
            copy = socket.socket(fileno=os.dup(descriptor))
        except OSError:  # closed meanwhile
            continue
        if _listens_on(copy, address):
            return copy
        copy.close()
    return None


def why_in_use(address: str) -> str:
    """Return why no process can begin to listen on `address`, else an empty text."""
    host, port = split_host_port(address)
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        return f"cannot listen on {address}: {listen_error_reason(address, error, v6only=False)}"
    return ""


def tls_faults(tls: TlsConfig | None) -> list[str]:
    """Return the faults of the files of the option `tls`, a line each."""
    if tls is None:
        return []
    faults = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    for path in (tls.certificate, tls.key, tls.client_ca):
        if path is not None:
            try:
                path.read_bytes()
            except OSError as error:
                faults.append(f"tls: {path} cannot be read: {error.strerror}")
    if not faults:
        try:
            context.load_cert_chain(tls.certificate, tls.key, password=lambda: "")
        except (ssl.SSLError, ValueError) as error:
            faults.append(f"tls: {tls.certificate} and {tls.key} are no certificate and its key: {_ssl_reason(error)}")
        try:
            if tls.client_ca is not None:
                context.load_verify_locations(tls.client_ca)
        except ssl.SSLError as error:
            faults.append(f"tls: {tls.client_ca} has no certificate of a CA: {_ssl_reason(error)}")
    return faults


def credentials(tls: TlsConfig) -> "grpc.ServerCredentials":
    """Return credentials that follow the files of `tls`. Raises DiscoveryError if these cannot be used.

    The files are read again for a new connection when one of them has changed. Files that cannot be used then leave the
    certificate as it was.
    """
    import grpc

    if faults := tls_faults(tls):
        raise DiscoveryError("; ".join(faults))

    def stamp() -> list[tuple[int, int]]:
        paths = [path for path in (tls.certificate, tls.key, tls.client_ca) if path is not None]
        return [(status.st_mtime_ns, status.st_ino) for status in (path.stat() for path in paths)]

    def read() -> "grpc.ServerCertificateConfiguration":
        pair = tls.key.read_bytes(), tls.certificate.read_bytes()
        return grpc.ssl_server_certificate_configuration([pair], tls.client_ca.read_bytes() if tls.client_ca else None)

    last = stamp()

    def fetch() -> "grpc.ServerCertificateConfiguration | None":
        nonlocal last
        try:
            now = stamp()
            if now == last or tls_faults(tls):
                return None
            last = now
            return read()
        except OSError:
            return None

    return grpc.dynamic_ssl_server_credentials(
        read(),
        fetch,  # type: ignore[arg-type] # None stands for an unchanged certificate
        require_client_authentication=tls.client_ca is not None,
    )


def _listens_on(candidate: socket.socket, address: str) -> bool:
    """Return True if the socket listens on `address`. grpcio listens on an IPv4 address by a socket of IPv6."""
    try:
        if candidate.family not in (socket.AF_INET, socket.AF_INET6) or candidate.type != socket.SOCK_STREAM:
            return False
        if not candidate.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            return False
        found_host, found_port = candidate.getsockname()[:2]
    except OSError:  # taken by another consumer
        return False
    host, port = split_host_port(address)
    return found_port == port and _plain(found_host) == _plain(host)


def _plain(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Return the address, an IPv4-mapped address as IPv4; every unspecified address is 0.0.0.0."""
    address = ipaddress.ip_address(host)
    if address.is_unspecified:
        return ipaddress.IPv4Address(0)
    return getattr(address, "ipv4_mapped", None) or address


def _ssl_reason(error: Exception) -> str:
    return str(getattr(error, "reason", None) or error)
