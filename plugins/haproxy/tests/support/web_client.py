"""A client of web services behind HAProxy, and certificates for these services."""

import ssl
from collections.abc import Mapping
from email.message import Message
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from typing import NamedTuple

import trustme

from discovery.testing import within


class Response(NamedTuple):
    """An answer to a request. `status` is 0 if there was none."""

    status: int
    body: str = ""
    headers: Message = Message()


class Certificates:
    """An authority and the certificates that it has issued."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._authority = trustme.CA()
        self._client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._authority.configure_trust(self._client)

    def pem(self, *names: str) -> Path:
        """Return a new file with the key and the certificate for the names, as HAProxy reads it."""
        path = self.directory / f"{names[0]}.pem"
        self._authority.issue_cert(*names).private_key_and_cert_chain_pem.write_to_path(str(path))
        return path

    def server(self, *names: str) -> ssl.SSLContext:
        """Return the context of a server with these names."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.pem(*names))
        return context

    def client(self) -> ssl.SSLContext:
        """Return the context of a client that trusts the authority."""
        return self._client

    def root(self) -> bytes:
        """Return the authority's own certificate."""
        return self._authority.cert_pem.bytes()


class _NamedConnection(HTTPSConnection):
    """A connection to 127.0.0.1, over TLS with another name."""

    def __init__(self, name: str, port: int, context: ssl.SSLContext) -> None:
        super().__init__("127.0.0.1", port, context=context, timeout=within(20))
        self._name, self._tls = name, context

    def connect(self) -> None:
        HTTPConnection.connect(self)
        self.sock = self._tls.wrap_socket(self.sock, server_hostname=self._name)


def get(
    port: int,
    path: str = "/",
    *,
    host: str = "127.0.0.1",
    tls: ssl.SSLContext | None = None,
    source: str = "127.0.0.1",
    headers: Mapping[str, str] | None = None,
) -> Response:
    """GET a path on a new connection, from the address `source`. `host` is the name of the header and of TLS."""
    connection: HTTPConnection
    if tls is None:
        connection = HTTPConnection("127.0.0.1", port, timeout=within(20), source_address=(source, 0))
    else:
        connection = _NamedConnection(host, port, tls)
    try:
        connection.request("GET", path, headers={"Host": host, **(headers or {})})
        answer = connection.getresponse()
        return Response(answer.status, answer.read().decode(), answer.headers)
    except (OSError, HTTPException):
        return Response(0)
    finally:
        connection.close()
