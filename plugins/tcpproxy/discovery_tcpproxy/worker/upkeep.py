"""Periodic work on the open connections of a listener: keep-alive, idle timeout, and closing at a stop."""

from collections.abc import Collection

from discovery_tcpproxy.worker import kernel
from discovery_tcpproxy.worker.loop import Loop, Timer
from discovery_tcpproxy.worker.options import keep_alive
from discovery_tcpproxy.worker.stream import Connection
from discovery_tcpproxy.worker.unacknowledged import Unacknowledged

_KEEPALIVE_AGE = 60.0
"""Seconds after which a backend socket gets keep-alive probes; for shorter connections the system call is saved."""
_IDLE_CHECKS = 4
"""Checks within the idle timeout: a connection is closed at most a quarter of the timeout too late."""
_LEAST_INTERVAL, _MOST_INTERVAL = 0.05, 60.0
"""Seconds, at least and at most, between two checks of the idle timeout."""
_QUIET, _UNANSWERED = 3.0, 8.0
"""Seconds without a byte after which a connection is idle at a stop: usually, and while an answer may be due.

Both are less than the 10 s after which Docker kills a container that was told to stop.
"""
_STOP_INTERVAL = 0.25
"""Seconds between two checks for idle connections at a stop."""


class Upkeep:
    """Timers of the connections of a listener; their cost does not depend on the traffic."""

    def __init__(self, loop: Loop, connections: Collection[Connection]) -> None:
        """Start the timers for the set `connections`, which changes as connections come and go."""
        self._loop = loop
        self._connections = connections
        self._idle_timeout = 0.0
        self._idle: Timer | None = None
        self._kept_alive = loop.now  # connections before this time have keep-alive enabled
        self._keeping = loop.call_later(_KEEPALIVE_AGE, self._keep_alive)
        self._ending: Timer | None = None
        self.unacknowledged = Unacknowledged(loop, connections)

    def configure(self, idle_timeout: float, unacknowledged_timeout: float) -> None:
        """Set the seconds without a byte, or without an acknowledgement, until a connection ends; 0 means never."""
        self.unacknowledged.configure(unacknowledged_timeout)
        self._idle_timeout = idle_timeout
        if self._idle is not None:
            self._idle.cancel()
        self._idle = None
        self._watch_idle()

    def close(self) -> None:
        """Cancel the timers. No connection is left."""
        self.unacknowledged.close()
        for timer in (self._idle, self._keeping, self._ending):
            if timer is not None:
                timer.cancel()

    def end_idle(self) -> None:
        """Close each connection with a FIN when idle; connections that are idle now are closed at once."""
        for connection in list(self._connections):
            if connection.open and is_idle(connection):
                connection.close("stopped")
        self._ending = self._loop.call_later(_STOP_INTERVAL, self.end_idle)

    def _watch_idle(self) -> None:
        seconds = self._idle_timeout
        if seconds:
            self._idle = self._loop.call_later(
                min(max(seconds / _IDLE_CHECKS, _LEAST_INTERVAL), _MOST_INTERVAL), self._close_idle
            )

    def _close_idle(self) -> None:
        now, seconds = self._loop.now, self._idle_timeout
        for connection in list(self._connections):
            server = connection.server
            if server is None or not connection.open:
                continue
            forwarded = connection.client.forwarded() + server.forwarded()
            if forwarded != connection.idle_mark:
                connection.idle_mark, connection.idle_since = forwarded, now
            elif now - connection.idle_since >= seconds:
                unsent = connection.client.pending or server.pending
                (connection.abort if unsent else connection.close)(
                    "idle"
                )  # a FIN would claim that the stream is complete
        self._watch_idle()

    def _keep_alive(self) -> None:
        """Enable keep-alive on the backend sockets of connections that have become old enough."""
        before, self._kept_alive = self._kept_alive, self._loop.now
        for connection in self._connections:
            old = connection.dialled_at >= before and not connection.probed_within
            if old and connection.open and connection.server is not None:
                keep_alive(connection.server.fd)
        self._keeping = self._loop.call_later(_KEEPALIVE_AGE, self._keep_alive)


def is_idle(connection: Connection) -> bool:
    """Return True if an open connection has no bytes in transit, and none have moved for 3 s.

    The time is 8 s if the client sent last and may wait for an answer. Bytes in transit are those in the worker and in
    the kernel: unread, unsent or unacknowledged.
    """
    client, server = connection.client, connection.server
    if server is None or client.pending is not None or server.pending is not None:
        return False
    sent, received = kernel.ages(server.fd)  # every byte of the connection passes this socket
    if min(sent, received) < (_UNANSWERED if connection.owes_answer() else _QUIET):
        return False
    return not any(kernel.unread(end.fd) or kernel.unsent(end.fd) for end in (client, server))
