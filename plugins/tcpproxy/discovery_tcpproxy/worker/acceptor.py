"""Listening sockets: accepting, pausing, closing."""

import os
import select
import socket
from typing import Any

from discovery_tcpproxy.worker.access import plain
from discovery_tcpproxy.worker.descriptors import EXHAUSTED
from discovery_tcpproxy.worker.listener import Listener, Shared
from discovery_tcpproxy.worker.options import keep_alive

_ACCEPTED = 64
"""Connections accepted at once, so that those that are open are not kept waiting."""
_AGAIN = 1.0
"""Seconds until a socket that gives nothing but errors is tried again."""
_EPOLLEXCLUSIVE: int = getattr(select, "EPOLLEXCLUSIVE", 1 << 28)
"""linux/eventpoll.h; a Python that was built on an old system, as portable builds are, does not have it."""
_WATCHED = select.EPOLLIN | _EPOLLEXCLUSIVE


class Acceptor:
    """One listening socket. Level-triggered, and for one of the workers that wait (EPOLLEXCLUSIVE)."""

    def __init__(self, sock: socket.socket, listener: Listener, shared: Shared) -> None:
        """Prepare; `resume` begins."""
        sock.setblocking(False)
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # accepted ones inherit these
            keep_alive(sock.fileno())
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
        self.listener = listener
        self._sock = sock
        self._accept = getattr(sock, "_accept")  # noqa: B009 - what accept() makes of it costs more than the call
        self._shared = shared
        self._is_ipv4 = sock.family == socket.AF_INET
        self._watched = False

    def fileno(self) -> int:
        """The listening socket's descriptor."""
        return self._sock.fileno()

    def resume(self) -> None:
        """Accept."""
        if not self._watched:
            self._watched = True
            self._shared.loop.add(self._sock.fileno(), self, _WATCHED)

    def pause(self) -> None:
        """Leave them in the kernel's queue."""
        if self._watched:
            self._watched = False
            self._shared.loop.remove(self._sock.fileno())

    def close(self) -> None:
        """Accept no more. At once: who is told so takes the address; to a connection, a stray event means nothing."""
        self.pause()
        self._sock.close()

    def event(self, events: int) -> None:
        """Accept some."""
        accept, accepted, descriptors = self._accept, self.listener.accepted, self._shared.descriptors
        is_ipv4 = self._is_ipv4
        failures = 0
        # Where few are served few have come at once, and to find nobody costs as much as to accept.
        left = min(len(self.listener.connections) + 1, _ACCEPTED)
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
                failures += 1  # a client that has gone already, which Linux reports here, unless all are
                if failures == _ACCEPTED:
                    self.pause()
                    self._shared.loop.call_later(_AGAIN, self._again)
                    self.failed(error)
                    return
                continue
            os.set_blocking(descriptor, False)
            left -= 1
            accepted(descriptor, address if is_ipv4 else _client(address))

    def _again(self) -> None:
        if self._sock.fileno() >= 0 and not self._shared.descriptors.paused:
            self.resume()

    def failed(self, error: Exception) -> None:
        """See `Handler`."""
        fields = {"listener": self.listener.name, "error": f"{type(error).__name__}: {error}"}
        self._shared.tell({"event": "log", "level": "error", "message": "accepting failed", "fields": fields})


def _client(address: Any) -> tuple[str, int]:
    """An IP address and port: IPv6 addresses have four parts, Unix sockets' clients none."""
    return (plain(address[0]), address[1]) if isinstance(address, tuple) else ("", 0)
