"""The xDS port: whether the address is free, TLS, and how a successor takes the port over."""

import errno
import socket
import ssl
from collections.abc import Iterable
from typing import TYPE_CHECKING

from discovery import ApplyError, DiscoveryError, join_host_port, split_host_port
from discovery.toolkit import format_holders, processes_with_sockets, tcp_sockets_listening_at
from discovery_xds.config import TlsConfig

if TYPE_CHECKING:
    import grpc


class Reservation:
    """A bound socket that does not listen: it keeps the port for this user's processes, and for a successor.

    grpcio opens its listening sockets itself and takes none over. So a successor listens beside its predecessor
    (`SO_REUSEPORT`, which Linux allows to one user alone), and the predecessor closes its sockets afterwards. A
    successor that gets the reservation knows that the other listener is its predecessor.
    """

    def __init__(self, address: str, inherited: Iterable[socket.socket]) -> None:
        """Take the reservation of `address` out of `inherited`, or else make it. Raises ApplyError if it is in use."""
        self.inherited = False
        for candidate in inherited:
            if _address_of(candidate) == address:
                self._socket = socket.socket(fileno=candidate.detach())
                self.inherited = True
                return
        if reason := why_in_use(address):
            raise ApplyError(reason)
        try:
            self._socket = _bound(address, shared=True)
        except OSError as error:
            raise ApplyError(f"cannot listen on {address}: {_reason(error)}") from None

    def release(self) -> socket.socket:
        """Return the socket, for a successor."""
        return self._socket

    def close(self) -> None:
        """Give the port up."""
        self._socket.close()


def why_in_use(address: str) -> str:
    """Return why no process can begin to listen on `address`, with the processes that do; else an empty text."""
    try:
        _bound(address, shared=False).close()
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            return f"cannot listen on {address}: {_reason(error)}"
        host, port = split_host_port(address)
        try:
            holders = format_holders(processes_with_sockets(tcp_sockets_listening_at(host, port)))
        except OSError:  # no descriptor is free: the message is true without the processes
            holders = ""
        return f"cannot listen on {address}: address already in use{holders}; stop that process, or set 'listen'"
    return ""


def tls_faults(tls: TlsConfig | None) -> list[str]:
    """Return what is wrong with the files of the option `tls`, each in one line."""
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


def _bound(address: str, *, shared: bool) -> socket.socket:
    host, port = split_host_port(address)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bound.bind((host, port))
    except OSError:
        bound.close()
        raise
    return bound


def _address_of(candidate: socket.socket) -> str:
    try:
        if candidate.family not in (socket.AF_INET, socket.AF_INET6) or candidate.type != socket.SOCK_STREAM:
            return ""
        if candidate.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            return ""
        host, port = candidate.getsockname()[:2]
    except OSError:  # taken by another consumer
        return ""
    return join_host_port(host, port)


def _reason(error: OSError) -> str:
    if error.errno in (errno.EACCES, errno.EPERM):
        return "permission denied; ports below 1024 require CAP_NET_BIND_SERVICE, or choose one from 1024 up"
    if error.errno == errno.EADDRNOTAVAIL:
        return "this machine does not have the address; choose an address of this machine"
    return error.strerror or str(error)


def _ssl_reason(error: Exception) -> str:
    return str(getattr(error, "reason", None) or error)
