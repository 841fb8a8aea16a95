"""The PROXY protocol headers that proxies in front send first."""

import select
import socket
from collections.abc import Callable

from discovery_tcpproxy.worker import local, proxyproto
from discovery_tcpproxy.worker.stream import Connection

_LAST = select.EPOLLRDHUP | select.EPOLLERR | select.EPOLLHUP


class HeaderReader:
    """Waits for a client's header, and takes nothing but that from its socket."""

    __slots__ = ("_announced", "_connection")

    def __init__(self, connection: Connection, announced: Callable[[Connection, proxyproto.Header], None]) -> None:
        """`announced` is called with it when it has come."""
        self._connection = connection
        self._announced = announced

    def event(self, events: int) -> None:
        """Look at what there is so far."""
        connection = self._connection
        client = connection.client
        try:
            data = client.sock.recv(proxyproto.MAX_V2, socket.MSG_PEEK | socket.MSG_DONTWAIT)
            header = proxyproto.parse(data)
            if header is not None:
                client.sock.recv(header.size, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except (OSError, proxyproto.ProxyProtocolError):
            connection.abort("header")
            return
        if header is not None:
            client.waiting = events | local.MORE  # what follows, even of a Unix socket
            self._announced(connection, header)
        elif events & _LAST:
            connection.abort("header")

    def failed(self, error: Exception) -> None:
        """See `Handler`."""
        self._connection.client.failed(error)
