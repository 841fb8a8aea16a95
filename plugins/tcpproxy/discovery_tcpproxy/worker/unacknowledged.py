"""Finds connections whose other side is dead: bytes were sent to it, and nothing at all has come back for too long.

TCP_USER_TIMEOUT would also end a peer that lives and does not read: its window is zero, so that bytes stay where they
are, while it acknowledges each probe. So the kernel is asked, every now and then, and only about connections on which
something has moved since, or was not acknowledged then.
"""

from collections.abc import Collection

from discovery_tcpproxy.worker import kernel
from discovery_tcpproxy.worker.loop import Loop, Timer
from discovery_tcpproxy.worker.options import probe_often
from discovery_tcpproxy.worker.stream import Connection, End

_LOOKS = 8
"""The number of looks at connections in the time that they may be unacknowledged."""
_SOONEST, _LATEST = 0.05, 2.0
"""Seconds, at least and at most, between two looks."""
_PROBES = 3
"""The least number of probes in that time to a peer that does not read."""
_ANSWERED = 0.0


class Unacknowledged:
    """Aborts connections of one listener to whose peers bytes remain unacknowledged."""

    def __init__(self, loop: Loop, connections: Collection[Connection]) -> None:
        """Prepare; `connections` changes as they come and go."""
        self._loop = loop
        self._connections = connections
        self._seconds = 0.0
        self._timer: Timer | None = None
        # The ends that had bytes unacknowledged at the last look, and since when nothing has been answered there.
        self._waiting: dict[End, float] = {}
        self.watching = True
        """Whether connections that come are seen to; if not, `watch` has to be called."""

    def configure(self, seconds: float) -> None:
        """Abort a connection when one of its peers has not answered for so many seconds; 0: never."""
        self.close()
        self._seconds = seconds
        self._waiting.clear()
        self.watch()

    def watch(self) -> None:
        """Look at the connections until there are none."""
        self.watching = True
        if self._seconds:
            every = min(max(self._seconds / _LOOKS, _SOONEST), _LATEST)
            self._timer = self._loop.call_later(every, self._look)

    def close(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        before, self._waiting = self._waiting, {}
        for connection in list(self._connections):
            client, server = connection.client, connection.server
            if server is None or not connection.open:
                continue
            moved = client.received + server.received + client.eof + server.eof
            if moved == connection.looked_at and client not in before and server not in before:
                continue
            connection.looked_at = moved
            if self._is_dead(client, before) or self._is_dead(server, before):
                connection.abort("unacknowledged")
        self._timer = None
        if self._connections:
            self.watch()
        else:
            self.watching = False

    def _is_dead(self, end: End, before: dict[End, float]) -> bool:
        if not kernel.unsent(end.fd):
            return False
        peer = kernel.peer(end.fd)
        if peer is None:  # of a Unix socket: it cannot die without a word
            return False
        now = self._loop.now
        since = before.get(end)
        if since is None:
            probe_often(end.fd, self._seconds / _PROBES)
        if not peer.owes_an_answer:
            since = _ANSWERED
        elif not since or now - peer.silent > since:
            since = now
        self._waiting[end] = since
        return since != _ANSWERED and now - since >= self._seconds
