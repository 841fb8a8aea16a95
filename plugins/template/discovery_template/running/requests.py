"""Requests by HTTP, over TCP or a Unix socket."""

import asyncio
import http.client
import socket
import ssl
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import urlsplit

_BODY_BYTES = 1 << 20
"""Bytes of an answer that are read: the answers are short."""


class Answer(NamedTuple):
    """Status and beginning of the body of an answer."""

    status: int
    body: str


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
) -> Answer:
    """Send a request, and return the answer. Redirects are not followed.

    With `unix_socket` the connection goes to that path. Raises OSError, also for an answer that is not HTTP.
    """
    return await asyncio.to_thread(_request, method, url, timeout, body, dict(headers or {}), unix_socket)


def _request(
    method: str, url: str, timeout: float, body: bytes | None, headers: dict[str, str], unix_socket: str | None
) -> Answer:
    parts = urlsplit(url)
    connection: http.client.HTTPConnection
    if unix_socket is not None:
        connection = _UnixConnection(unix_socket, timeout)
    elif parts.scheme == "https":
        context = ssl.create_default_context()
        connection = http.client.HTTPSConnection(parts.hostname or "", parts.port, timeout=timeout, context=context)
    else:
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=timeout)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    try:
        connection.request(method, target, body, {"Connection": "close", **headers})
        answer = connection.getresponse()
        return Answer(answer.status, answer.read(_BODY_BYTES).decode(errors="replace"))
    except http.client.HTTPException as error:
        raise OSError(f"the answer is not HTTP: {type(error).__name__}") from None
    finally:
        connection.close()
