"""Connection attempts to the backends of a listener: one backend after another, until one answers."""

import errno
import os
import socket
from collections.abc import Container, Mapping
from typing import Any

from discovery_tcpproxy.worker.context import WorkerContext
from discovery_tcpproxy.worker.counters import ListenerCounters
from discovery_tcpproxy.worker.descriptors import EXHAUSTED
from discovery_tcpproxy.worker.hold_queue import HoldQueue
from discovery_tcpproxy.worker.loop import Deadlines
from discovery_tcpproxy.worker.pool import UpstreamPool
from discovery_tcpproxy.worker.stream import Connection
from discovery_tcpproxy.worker.upstream import Upstream

_Socket, _AF_INET, _AF_INET6 = socket.SocketType, socket.AF_INET, socket.AF_INET6
_IPPROTO_TCP, _TCP_NODELAY = socket.IPPROTO_TCP, socket.TCP_NODELAY
_SOCKET_TYPE = socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
_LOCAL_ERRORS = EXHAUSTED | {errno.EADDRNOTAVAIL, errno.EAGAIN}
"""Errors of connect that no backend causes: this machine has no free descriptor or no free port."""
_STARTED = (errno.EINPROGRESS, 0)
_LOCAL_DELAY = 0.25
"""Seconds until the next attempt after an error of this machine: on a busy listener some connections end meanwhile."""


class Dialler:
    """Connects the clients of a listener to backends; a connection without a usable backend is held."""

    __slots__ = ("_context", "_counters", "_last_resort", "_loop", "_pool", "_retries", "attempts", "queue")

    def __init__(self, context: WorkerContext, pool: UpstreamPool, counters: ListenerCounters) -> None:
        """Create the dialler of a listener."""
        self._context = context
        self._loop = context.loop
        self._pool = pool
        self._counters = counters
        self._retries = 0
        self._last_resort = True
        self.attempts = Deadlines[Connection](context.loop, 0.0, self._time_out)
        """Deadlines of the attempts that have not been answered."""
        self.queue = HoldQueue(context.loop, pool, counters, self.dial)
        """Clients for which there is no usable backend."""

    def configure(self, settings: Mapping[str, Any]) -> None:
        """Take the settings of the listener; attempts that are under way keep their deadline."""
        self._retries = settings["retries"]
        self._last_resort = not settings["hold"]
        self.attempts.seconds = settings["connect_timeout"]
        self.queue.configure(settings)

    def dial(self, connection: Connection) -> None:
        """Start a connection attempt to the next address, or to the next backend, or hold or abort the client."""
        now = self._loop.now
        while (upstream := connection.upstream) is not None or len(connection.tried) <= self._retries:
            if upstream is None:
                upstream = self._pool.select(
                    connection.client_address[0], connection.tried, now, last_resort=self._last_resort
                )
                if upstream is None:
                    break
                connection.upstream = upstream
                connection.other_addresses = upstream.other_addresses
                connection.server_address = address = upstream.address
            else:  # an address of this backend has failed
                connection.server_address, *others = connection.other_addresses
                connection.other_addresses, address = tuple(others), connection.server_address
            connection.dialled_at = now
            try:
                sock = _Socket(_AF_INET6 if ":" in address[0] else _AF_INET, _SOCKET_TYPE)
            except OSError:
                self._give_back(connection)
                break
            sock.setsockopt(_IPPROTO_TCP, _TCP_NODELAY, 1)
            try:
                code = sock.connect_ex(address)
            except OSError:  # the scope of an IPv6 address names an interface that this machine does not have
                code = errno.ENETUNREACH
            if code in _STARTED:
                if connection.tried:
                    self._counters.retries += 1
                try:
                    connection.attach_server(sock.detach())
                except OSError as error:  # the limit fs.epoll.max_user_watches is reached: the caller dials for others
                    connection.abort("unserved")
                    connection.owner.connection_failed(connection, error)
                    return
                self.attempts.add(connection)
                return
            sock.close()
            if code in _LOCAL_ERRORS:
                self._give_back(connection)
                break
            self.failed(connection, os.strerror(code))
        self.queue.add(connection)

    def failed(self, connection: Connection, reason: str) -> None:
        """Record an attempt that failed for `reason`, in a few words.

        The backend remains that of the connection while it has other addresses.
        """
        upstream = connection.upstream
        if upstream is None:
            return
        self.attempts.discard(connection)
        connection.detach_server()
        if connection.other_addresses:
            return
        connection.upstream = None
        connection.tried += (upstream,)
        self._counters.connect_failures += 1
        self._pool.failed(upstream, self._loop.now, reason)
        self.queue.schedule()

    def break_off(self, left: Container[Upstream]) -> None:
        """Break off the attempts at backends that have left, and dial other backends.

        There may be very many, which would overflow the queue of another backend's kernel: they take turns.
        """
        broken_off = [each for each in self.attempts.all() if each.upstream in left]
        for connection in broken_off:
            self.attempts.discard(connection)
            connection.detach_server()
            upstream, connection.upstream = connection.upstream, None
            if upstream is not None:
                self._pool.abandoned(upstream)
        for connection in broken_off:
            self._dial_in_turn(connection)

    def _time_out(self, connection: Connection) -> None:
        self.failed(connection, f"no answer within {self.attempts.seconds:g} s")
        self._dial_in_turn(connection)

    def _dial_in_turn(self, connection: Connection) -> None:
        """Dial for a connection whose attempt ended together with many others, or let the client wait for its turn."""
        if connection.upstream is None and self.queue.can_line_up():
            self.queue.line_up(connection)
        else:
            self.dial(connection)

    def _give_back(self, connection: Connection) -> None:
        """Return the backend to the pool after an error of this machine, and accept no clients for a while."""
        self.queue.block(_LOCAL_DELAY)
        self._context.descriptors.exhausted()
        if connection.upstream is not None:
            self._pool.abandoned(connection.upstream)
            connection.upstream = None
