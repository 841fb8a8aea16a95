"""Detection of connections with a dead peer: sent bytes are unacknowledged, and nothing has arrived for too long.

A backend that has acknowledged a request and dies before its answer leaves nothing unacknowledged. While an answer is
due, and no byte moves, keep-alive probes take the place of bytes, and the kernel ends the connection.

TCP_USER_TIMEOUT is not used: it would also end connections to a living peer that does not read. Such a peer has a
closed window and acknowledges every probe. Instead the state of the socket (TCP_INFO) is read periodically, for
connections that have received bytes since the last check, or that had unacknowledged bytes at the last check.
"""

from collections.abc import Collection

from discovery_tcpproxy.worker import kernel
from discovery_tcpproxy.worker.loop import Loop, Timer
from discovery_tcpproxy.worker.options import keep_alive, keep_alive_within, limit_probe_interval
from discovery_tcpproxy.worker.stream import Connection, End

_CHECKS = 8
"""Checks within the timeout. The check that ends a connection comes when it is due, between two others."""
_SOONER = 8
"""That check may come so many times sooner than the others: a bound of the cost when many connections end."""
_FIRST_PROBE, _FIRST_PROBE_SHARE = 0.25, 1 / 20
"""Seconds, at most, and as a share of the timeout, that `Peer.overdue` may lack: the kernel does not tell how long it
waited before its tail loss probe (RFC 8985, section 7.2).
"""
_LEAST_INTERVAL, _MOST_INTERVAL = 0.05, 2.0
"""Seconds, at least and at most, between two checks: a bound of the cost, and of the delay with long timeouts."""
_PROBES = 3
"""Probes within the timeout to a peer with a closed window: one or two may be lost."""
_ACKNOWLEDGED = 0.0
"""In place of a time: the peer had acknowledged everything at the last check."""


class Unacknowledged:
    """Periodic check that aborts the connections of a listener whose peers are dead."""

    def __init__(self, loop: Loop, connections: Collection[Connection]) -> None:
        """Create the check of the set `connections`, which changes as connections come and go."""
        self._loop = loop
        self._connections = connections
        self._seconds = self._every = self._limit = 0.0
        self._timer: Timer | None = None
        # Sockets with unacknowledged bytes at the last check, and the time since which nothing was acknowledged.
        self._unanswered: dict[End, float] = {}
        self.watching = True
        """True if new connections will be checked. If not, call `watch` after a new connection."""

    def configure(self, seconds: float) -> None:
        """Abort a connection if the client or the backend acknowledges nothing for these seconds; 0 means never."""
        self.close()
        self._seconds = seconds
        self._every = min(max(seconds / _CHECKS, _LEAST_INTERVAL), _MOST_INTERVAL)
        # A connection ends within the timeout, and so sooner by what cannot be told exactly: 7 % of it at most.
        self._limit = seconds - self._every / _SOONER - min(_FIRST_PROBE, seconds * _FIRST_PROBE_SHARE)
        self._unanswered.clear()
        for connection in self._connections:
            connection.rested = False
            if not seconds:
                self._probe(connection, 0.0)
        self.watch()

    def watch(self) -> None:
        """Check the connections periodically as long as there are any."""
        self.watching = True
        if self._seconds:
            waited = [self._loop.now - since for since in self._unanswered.values() if since != _ACKNOWLEDGED]
            due = self._limit - max(waited, default=0.0)
            self._timer = self._loop.call_later(min(max(due, self._every / _SOONER), self._every), self._check)

    def close(self) -> None:
        """Stop checking."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _check(self) -> None:
        before, self._unanswered = self._unanswered, {}
        for connection in list(self._connections):
            client, server = connection.client, connection.server
            if server is None or not connection.open:
                continue
            received = client.received + server.received + client.eof + server.eof
            if received == connection.probe_mark and client not in before and server not in before:
                if not connection.rested:
                    connection.rested = True
                    self._probe(connection, self._seconds if connection.owes_answer() else 0.0)
                continue
            connection.probe_mark = received
            connection.rested = False
            if self._is_dead(client, before) or self._is_dead(server, before):
                connection.abort("unacknowledged")
        self._timer = None
        if self._connections:
            self.watch()
        else:
            self.watching = False

    @staticmethod
    def _probe(connection: Connection, within: float) -> None:
        """Have keep-alive detect within so many seconds that the backend is dead; 0: within the usual minutes."""
        if connection.server is None or within == connection.probed_within:
            return
        connection.probed_within = within
        if within:
            keep_alive_within(connection.server.fd, within)
        else:
            keep_alive(connection.server.fd)

    def _is_dead(self, end: End, before: dict[End, float]) -> bool:
        if not kernel.unsent(end.fd):
            return False
        peer = kernel.peer(end.fd)
        if peer is None:  # a Unix socket, whose peer cannot disappear silently
            return False
        now = self._loop.now
        since = before.get(end)
        if since is None:
            limit_probe_interval(end.fd, self._seconds / _PROBES)
        if not peer.acknowledgement_due:
            since = _ACKNOWLEDGED
        elif not since or now - peer.silent > since:
            since = now - min(peer.silent, peer.overdue)
        self._unanswered[end] = since
        return since != _ACKNOWLEDGED and now - since >= self._limit
