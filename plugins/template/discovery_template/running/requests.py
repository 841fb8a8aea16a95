"""Requests by HTTP, over TCP or a Unix socket."""

import asyncio
import http.client
import socket
import ssl
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import SplitResult, urlsplit

_BODY_BYTES = 1 << 20
"""Bytes of an answer that are read: the answers are short."""


class Answer(NamedTuple):
    """Status and beginning of the body of an answer."""

    status: int
    body: str


class _AnyCertificate(http.client.HTTPConnection):
    """A connection to a program of this instance: the certificate is that of its clients, with any name."""

    def __init__(self, host: str, port: int | None, timeout: float, server_name: str) -> None:
        super().__init__(host, port, timeout=timeout)
        self._server_name = server_name

    def connect(self) -> None:
        super().connect()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        self.sock = context.wrap_socket(self.sock, server_hostname=self._server_name)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


async def request(
    method: str,
    url: str,
    *,
    timeout: float,
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
    unix_socket: str | None = None,
    server_name: str | None = None,
) -> Answer:
    """Send a request, and return the answer. Redirects are not followed.

    With `unix_socket` the connection goes to that path. With `server_name` the TLS handshake names that server, and any
    certificate will do. Raises OSError, also for an answer that is not HTTP.
    """
    connection = _connection(urlsplit(url), timeout, unix_socket, server_name)
    return await asyncio.to_thread(_request, connection, method, urlsplit(url), body, dict(headers or {}))


def _connection(
    parts: SplitResult, timeout: float, unix_socket: str | None, server_name: str | None
) -> http.client.HTTPConnection:
    if unix_socket is not None:
        return _UnixConnection(unix_socket, timeout)
    if server_name is not None and parts.scheme == "https":
        return _AnyCertificate(parts.hostname or "", parts.port, timeout, server_name)
    if parts.scheme == "https":
        context = ssl.create_default_context()
        return http.client.HTTPSConnection(parts.hostname or "", parts.port, timeout=timeout, context=context)
    return http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=timeout)


def _request(
    connection: http.client.HTTPConnection,
    method: str,
    parts: SplitResult,
    body: bytes | None,
    headers: dict[str, str],
) -> Answer:
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    try:
        connection.request(method, target, body, {"Connection": "close", **headers})
        answer = connection.getresponse()
        return Answer(answer.status, answer.read(_BODY_BYTES).decode(errors="replace"))
    except http.client.HTTPException as error:
        raise OSError(f"the answer is not HTTP: {type(error).__name__}") from None
    finally:
        connection.close()
