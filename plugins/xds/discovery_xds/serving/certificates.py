"""The certificates of the xDS port, which are read again when their files change."""

import ssl
from pathlib import Path
from typing import TYPE_CHECKING

from discovery import DiscoveryError
from discovery_xds.config import TlsConfig

if TYPE_CHECKING:
    import grpc


class ServerCertificates:
    """The files of the option `tls`. From any thread: gRPC asks, on a thread of its own, at each new connection."""

    def __init__(self, tls: TlsConfig) -> None:
        """Read the files. Raises DiscoveryError if these cannot be used."""
        if faults := tls_faults(tls):
            raise DiscoveryError("; ".join(faults))
        self._tls = tls
        self._stamp = self._stamps()

    def credentials(self) -> "grpc.ServerCredentials":
        """Return credentials that follow the files. Files that cannot be used leave the certificate as it was."""
        import grpc

        return grpc.dynamic_ssl_server_credentials(
            self._read(),
            self._changed,  # type: ignore[arg-type] # None stands for an unchanged certificate
            require_client_authentication=self._tls.client_ca is not None,
        )

    def problem(self) -> str:
        """Return why the files as they are now cannot be used; an empty text if they can."""
        if self._stamps() == self._stamp:
            return ""
        faults = tls_faults(self._tls)
        return f"the certificate of before is in use: {'; '.join(faults)}" if faults else ""

    def _stamps(self) -> list[tuple[int, int]] | None:
        """Return what differs if a file is another; None while a file is missing."""
        try:
            found = [path.stat() for path in _paths(self._tls)]
        except OSError:
            return None
        return [(status.st_mtime_ns, status.st_ino) for status in found]

    def _changed(self) -> "grpc.ServerCertificateConfiguration | None":
        now = self._stamps()
        if now is None or now == self._stamp or tls_faults(self._tls):
            return None
        try:
            read = self._read()
        except OSError:
            return None
        self._stamp = now
        return read

    def _read(self) -> "grpc.ServerCertificateConfiguration":
        import grpc

        pair = self._tls.key.read_bytes(), self._tls.certificate.read_bytes()
        authority = self._tls.client_ca.read_bytes() if self._tls.client_ca else None
        return grpc.ssl_server_certificate_configuration([pair], authority)


def tls_faults(tls: TlsConfig | None) -> list[str]:
    """Return the faults of the files of the option `tls`, a line each."""
    if tls is None:
        return []
    faults = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    for path in _paths(tls):
        try:
            path.read_bytes()
        except OSError as error:
            faults.append(f"tls: {path} cannot be read: {error.strerror}")
    if not faults:
        try:
            context.load_cert_chain(tls.certificate, tls.key, password=lambda: "")
        except (OSError, ValueError) as error:
            faults.append(f"tls: {tls.certificate} and {tls.key} are no certificate and its key: {_reason(error)}")
        try:
            if tls.client_ca is not None:
                context.load_verify_locations(tls.client_ca)
        except OSError as error:
            faults.append(f"tls: {tls.client_ca} has no certificate of a CA: {_reason(error)}")
    return faults


def _paths(tls: TlsConfig) -> list[Path]:
    return [path for path in (tls.certificate, tls.key, tls.client_ca) if path is not None]


def _reason(error: Exception) -> str:
    return str(getattr(error, "reason", None) or error)
