"""Acceptor of a listening socket: accepts clients for the proxy of a listener."""

import os
import select
import socket
from typing import Any

from discovery_tcpproxy.worker.access import plain
from discovery_tcpproxy.worker.context import WorkerContext
from discovery_tcpproxy.worker.descriptors import EXHAUSTED
from discovery_tcpproxy.worker.options import keep_alive
from discovery_tcpproxy.worker.proxy import ListenerProxy

_ACCEPTED = 64
"""Connections accepted in one turn at most, so that open connections do not wait: a few milliseconds."""
_RETRY_DELAY = 1.0
"""Seconds for which a listening socket is not used after it has returned nothing but errors."""
_EPOLLEXCLUSIVE: int = getattr(select, "EPOLLEXCLUSIVE", 1 << 28)
"""Value from linux/eventpoll.h, for a Python that was built on a system without the constant."""
_WATCHED = select.EPOLLIN | _EPOLLEXCLUSIVE


class Acceptor:
    """Acceptor of a listening socket that all workers share; EPOLLEXCLUSIVE wakes a single waiting worker."""

    def __init__(self, sock: socket.socket, proxy: ListenerProxy, context: WorkerContext) -> None:
        """Set the options of the socket. No client is accepted before `resume` is called."""
        sock.setblocking(False)
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # accepted sockets inherit these options
            keep_alive(sock.fileno())
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
        self.proxy = proxy
        self._sock = sock
        self._accept = getattr(sock, "_accept")  # noqa: B009 - the socket object of accept() costs more than the call
        self._context = context
        self._is_ipv4 = sock.family == socket.AF_INET
        self._watched = False

    def fileno(self) -> int:
        """Return the descriptor of the listening socket."""
        return self._sock.fileno()

    def resume(self) -> None:
        """Start to accept clients."""
        if not self._watched:
            self._watched = True
            self._context.loop.add(self._sock.fileno(), self, _WATCHED)

    def pause(self) -> None:
        """Leave clients in the queue of the kernel."""
        if self._watched:
            self._watched = False
            self._context.loop.remove(self._sock.fileno())

    def close(self) -> None:
        """Stop accepting and close the socket at once.

        The close is not deferred: when the daemon has the answer, the address has to be free. A late event may reach a
        connection that has the same descriptor by then, which ignores it.
        """
        self.pause()
        self._sock.close()

    def event(self, events: int) -> None:
        """Accept the clients that have come, up to a bound."""
        accept, accepted, descriptors = self._accept, self.proxy.accepted, self._context.descriptors
        is_ipv4 = self._is_ipv4
        failures = 0
        # All processes with the socket share its mode. `socket.dup` of a successor of version 0.1, and systemd
        # at each start of a unit, make the socket block: the worker would serve nobody until the next client comes.
        os.set_blocking(self._sock.fileno(), False)
        # With few connections few clients wait at once, and an accept that finds none costs as much as any other.
        left = min(len(self.proxy.connections) + 1, _ACCEPTED)
        while left:
            if descriptors.full():
                return
            try:
                descriptor, address = accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in EXHAUSTED:
                    descriptors.exhausted()
                    return
                failures += 1  # of a client that has left already, unless every call fails
                if failures == _ACCEPTED:
                    self.pause()
                    self._context.loop.call_later(_RETRY_DELAY, self._retry)
                    self.failed(error)
                    return
                continue
            os.set_blocking(descriptor, False)
            left -= 1
            accepted(descriptor, address if is_ipv4 else _client(address))

    def _retry(self) -> None:
        if self._sock.fileno() >= 0 and not self._context.descriptors.paused:
            self.resume()

    def failed(self, error: Exception) -> None:
        """Report an error of the socket. See `Handler`."""
        fields = {"listener": self.proxy.name, "error": f"{type(error).__name__}: {error}"}
        self._context.send_event({"event": "log", "level": "error", "message": "accepting failed", "fields": fields})


def _client(address: Any) -> tuple[str, int]:
    """Return the IP address and port of a client; `("", 0)` for a client of a Unix socket."""
    return (plain(address[0]), address[1]) if isinstance(address, tuple) else ("", 0)
