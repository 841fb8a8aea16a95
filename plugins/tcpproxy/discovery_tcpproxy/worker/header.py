"""PROXY protocol headers: those that proxies in front send first, and those that backends are sent."""

import select
import socket
from collections.abc import Callable

from discovery_tcpproxy.worker import local, proxyproto
from discovery_tcpproxy.worker.access import plain
from discovery_tcpproxy.worker.loop import Handler
from discovery_tcpproxy.worker.options import borrowed
from discovery_tcpproxy.worker.stream import Connection

_LAST = select.EPOLLRDHUP | select.EPOLLERR | select.EPOLLHUP


class HeaderReader:
    """Waits for a client's header, and takes nothing but that from its socket."""

    __slots__ = ("_announced", "_connection", "_then")

    def __init__(
        self, connection: Connection, then: Handler, announced: Callable[[Connection, proxyproto.Header], None]
    ) -> None:
        """`announced` is called with it when it has come; what the client does from there on goes to `then`."""
        self._connection = connection
        self._then = then
        self._announced = announced

    def event(self, events: int) -> None:
        """Look at what there is so far."""
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
            client.waiting = events | local.MORE  # what follows, even of a Unix socket
            connection.loop.handlers[client.fd] = self._then
            self._announced(connection, header)
        elif events & _LAST:
            connection.abort("header")

    def failed(self, error: Exception) -> None:
        """See `Handler`."""
        self._connection.client.failed(error)


def header_of(connection: Connection, version: str) -> bytes:
    """The header that tells a backend the source and the destination of a connection."""
    source, reached = connection.address, connection.reached
    if reached is None:
        try:
            with borrowed(connection.client.fd) as sock:
                here = sock.getsockname()
        except OSError:
            here = ""
        reached = (plain(here[0]), here[1]) if isinstance(here, tuple) else None
    return proxyproto.write(version, source if source[0] else None, reached)
