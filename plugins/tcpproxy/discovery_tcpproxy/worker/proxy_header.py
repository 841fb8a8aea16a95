"""PROXY protocol headers of connections: read from proxies in front, and written to backends."""

import select
import socket
from collections.abc import Callable

from discovery_tcpproxy.worker import proxyproto, unix_client
from discovery_tcpproxy.worker.access import plain
from discovery_tcpproxy.worker.loop import Handler
from discovery_tcpproxy.worker.options import borrowed
from discovery_tcpproxy.worker.stream import Connection

_ENDED = select.EPOLLRDHUP | select.EPOLLERR | select.EPOLLHUP


class HeaderReader:
    """Handler that reads the PROXY header of a client, and nothing behind the header."""

    __slots__ = ("_connection", "_on_header", "_then")

    def __init__(
        self, connection: Connection, then: Handler, on_header: Callable[[Connection, proxyproto.Header], None]
    ) -> None:
        """Call `on_header` when the header is complete; later events of the client go to the handler `then`."""
        self._connection = connection
        self._then = then
        self._on_header = on_header

    def event(self, events: int) -> None:
        """Parse the bytes that have arrived so far."""
        connection = self._connection
        client = connection.client
        try:
            with borrowed(client.fd) as sock:
                header = proxyproto.parse(sock.recv(proxyproto.MAX_V2, socket.MSG_PEEK))
                if header is not None:
                    sock.recv(header.size)
        except BlockingIOError:
            return
        except (OSError, proxyproto.ProxyProtocolError):
            connection.abort("header")
            return
        if header is not None:
            client.unread_events = events | unix_client.MORE  # bytes may follow the header, on a Unix socket as well
            connection.loop.handlers[client.fd] = self._then
            self._on_header(connection, header)
        elif events & _ENDED:
            connection.abort("header")

    def failed(self, error: Exception) -> None:
        """See `Handler`."""
        self._connection.client.failed(error)


def header_of(connection: Connection, version: str) -> bytes:
    """Return the header that gives a backend the source and the destination of a connection."""
    source, destination = connection.client_address, connection.original_destination
    if destination is None:
        try:
            with borrowed(connection.client.fd) as sock:
                here = sock.getsockname()
        except OSError:
            here = ""
        destination = (plain(here[0]), here[1]) if isinstance(here, tuple) else None
    return proxyproto.write(version, source if source[0] else None, destination)
