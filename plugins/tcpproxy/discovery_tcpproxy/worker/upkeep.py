"""Periodic work on a listener's open connections: keep-alive, the idle timeout, the end at a stop."""

from collections.abc import Collection

from discovery_tcpproxy.worker import kernel
from discovery_tcpproxy.worker.loop import Loop, Timer
from discovery_tcpproxy.worker.options import keep_alive
from discovery_tcpproxy.worker.stream import Connection
from discovery_tcpproxy.worker.unacknowledged import Unacknowledged

_LONG = 60.0
"""Seconds after which a connection is long enough to ask whether its backend is still there (SO_KEEPALIVE)."""
_LOOKS = 4
"""The number of looks at connections in the time that they may be idle."""
_QUIET, _UNANSWERED = 3.0, 8.0
"""Seconds without a byte after which a connection is idle at a stop: usually, and while an answer may be due."""
_BETWEEN = 0.25
"""Seconds between two looks for idle connections at a stop."""


class Upkeep:
    """Looks after the connections of one listener, at a cost that does not depend on how much they carry."""

    def __init__(self, loop: Loop, connections: Collection[Connection]) -> None:
        """Begin; `connections` changes as they come and go."""
        self._loop = loop
        self._connections = connections
        self._idle_timeout = 0.0
        self._idle: Timer | None = None
        self._kept_alive = loop.now  # connections before this ask already
        self._keeping = loop.call_later(_LONG, self._keep_alive)
        self._ending: Timer | None = None
        self.unacknowledged = Unacknowledged(loop, connections)

    def configure(self, idle_timeout: float, unacknowledged_timeout: float) -> None:
        """Close connections on which nothing has moved, or been acknowledged, for so many seconds; 0: never."""
        self.unacknowledged.configure(unacknowledged_timeout)
        self._idle_timeout = idle_timeout
        if self._idle is not None:
            self._idle.cancel()
        self._idle = None
        self._watch_idle()

    def close(self) -> None:
        """End; no connection is left."""
        self.unacknowledged.close()
        for timer in (self._idle, self._keeping, self._ending):
            if timer is not None:
                timer.cancel()

    def end_idle(self) -> None:
        """Close each connection with a FIN as soon as it is idle, those that are now at once."""
        for connection in list(self._connections):
            if connection.open and is_idle(connection):
                connection.close("stopped")
        self._ending = self._loop.call_later(_BETWEEN, self.end_idle)

    def _watch_idle(self) -> None:
        seconds = self._idle_timeout
        if seconds:
            self._idle = self._loop.call_later(min(max(seconds / _LOOKS, 0.05), 60), self._close_idle)

    def _close_idle(self) -> None:
        now, seconds = self._loop.now, self._idle_timeout
        for connection in list(self._connections):
            server = connection.server
            if server is None or not connection.open:
                continue
            mark = connection.client.moved() + server.moved()
            if mark != connection.mark:
                connection.mark, connection.marked = mark, now
            elif now - connection.marked >= seconds:
                cut = connection.client.pending or server.pending
                (connection.abort if cut else connection.close)("idle")  # a FIN would say that it is complete
        self._watch_idle()

    def _keep_alive(self) -> None:
        """Ask for it where it is needed: a system call fewer for each of the many short connections."""
        before, self._kept_alive = self._kept_alive, self._loop.now
        for connection in self._connections:
            if connection.open and connection.server is not None and connection.dialled >= before:
                keep_alive(connection.server.fd)
        self._keeping = self._loop.call_later(_LONG, self._keep_alive)


def is_idle(connection: Connection) -> bool:
    """Whether nothing is on its way on an open connection, here or in the kernel, and nothing has moved for a while.

    That is 3 s, or 8 s where the client spoke last, and may wait for an answer.
    """
    client, server = connection.client, connection.server
    if server is None or client.pending is not None or server.pending is not None:
        return False
    sent, received = kernel.ages(server.fd)  # whatever moves, moves there, too
    unanswered = client.received and not server.eof and (not server.received or sent < received)
    if min(sent, received) < (_UNANSWERED if unanswered else _QUIET):
        return False
    return not any(kernel.unread(end.fd) or kernel.unsent(end.fd) for end in (client, server))
