"""Clients of a listener that wait until a backend is usable, and then leave the queue in waves."""

from collections.abc import Callable, Mapping
from operator import attrgetter
from typing import Any

from discovery_tcpproxy.worker.counters import ListenerCounters
from discovery_tcpproxy.worker.loop import Deadlines, Loop, Timer
from discovery_tcpproxy.worker.pool import UpstreamPool
from discovery_tcpproxy.worker.stream import Connection

_LEAST_INTERVAL = 0.01
"""Seconds, at least, between two attempts for the clients that are held, so that attempts are no busy loop."""
WAVE = 64
"""Connections that leave the queue, at most, before their backends have answered one of them.

A backend's kernel keeps the connections that the backend has not accepted in a short queue (50 to 511 in many servers),
and drops what exceeds the queue: such a client is served a second later, when its packet is repeated.
"""
_SILENT = 0.05
"""Seconds for which a connection without an answer counts: a slow request, or a protocol in which clients speak first
and get no answer, holds up the clients behind it no longer."""
_ARRIVAL = attrgetter("accepted_at")


class HoldQueue:
    """Queue of held clients, in the order of arrival, which are dialled again when a backend may be usable."""

    __slots__ = (
        "_blocked_until",
        "_counters",
        "_dial",
        "_dialled",
        "_held",
        "_loop",
        "_newest",
        "_ordered",
        "_pool",
        "_settings",
        "_stopping",
        "_timer",
        "wave",
    )

    def __init__(
        self, loop: Loop, pool: UpstreamPool, counters: ListenerCounters, dial: Callable[[Connection], None]
    ) -> None:
        """Create an empty queue; `dial` is called with each connection that leaves the queue for another attempt."""
        self._loop = loop
        self._pool = pool
        self._counters = counters
        self._dial = dial
        self._held = Deadlines[Connection](loop, 0.0, self._expire)
        self._dialled: dict[Connection, float] = {}  # the wave: when each left the queue
        self._newest = 0.0  # arrival of the newest client that was held
        self._ordered = True
        self._settings: Mapping[str, Any] = {}
        self._timer: Timer | None = None
        self._stopping = False
        self._blocked_until = 0.0
        self.wave = False
        """True while held clients wait although a backend may be usable: clients that come are given to `exchange`."""

    def __len__(self) -> int:
        """Return the number of held clients."""
        return len(self._held)

    def __contains__(self, connection: object) -> bool:
        """Return True if the client of the connection is held."""
        return connection in self._held

    def configure(self, settings: Mapping[str, Any]) -> None:
        """Take the settings of the listener; clients that are held keep their deadline."""
        self._settings = settings
        self._held.seconds = settings["hold"]

    def close(self) -> None:
        """Cancel the timer; the queue is empty."""
        if self._timer is not None:
            self._timer.cancel()

    def stop(self) -> None:
        """Reset all held clients, and hold no others: the daemon sends no more backends."""
        self._stopping = True
        for connection in self._held.all():
            connection.abort("stopped")

    def add(self, connection: Connection) -> None:
        """Hold the client of a connection for which no backend is usable, or abort the connection.

        A client that has waited for the answer of a backend keeps its place before the clients that arrived later.
        """
        connection.tried = ()
        if not self._settings["hold"]:
            connection.abort("unserved")
        elif self._stopping:
            connection.abort("stopped")
        elif connection.client.has_unread_fin():
            connection.abort("gone")
        elif connection.hold_until is not None:
            self._held.add(connection, connection.hold_until)
            self._note_arrival(connection)
        elif len(self._held) >= self._settings["hold_connections"]:
            connection.abort("full")
        else:
            self._counters.held += 1
            connection.hold_until = self._held.add(connection)
            self._note_arrival(connection)
        self.schedule()

    def exchange(self, connection: Connection) -> None:
        """Dial the client that has been held longest in place of a new client, which waits behind the others.

        So nobody overtakes, and no client is kept from a backend that would have been dialled at this moment: while
        clients come, as many leave the queue beside the waves. Without a held client, or a backend to dial, the client
        that has come is dialled at once, and held if need be.
        """
        if not self._held or not self.can_line_up():
            self._dial(connection)
            return
        self.line_up(connection)
        self._sort()
        first = self._held.first()
        assert first is not None  # noqa: S101
        self._leave(first)

    def can_line_up(self) -> bool:
        """Return True if clients may be held, and a held client may be dialled now."""
        return bool(self._settings["hold"]) and not self._stopping and self._can_dial()

    def line_up(self, connection: Connection) -> None:
        """Let a client wait for its turn alone: backends are there. It does not count as held for lack of a backend."""
        self._held.add(connection, connection.hold_until)
        self._note_arrival(connection)
        self.schedule()

    def finished(self, connection: Connection) -> None:
        """Handle a FIN of a held client: it has left, unless it waits for its turn alone, and is dialled now."""
        if connection.hold_until is None and self._can_dial():
            self._leave(connection)
        else:
            connection.abort("gone")

    def discard(self, connection: Connection) -> None:
        """Remove a connection that has ended, if its client is held."""
        self._held.discard(connection)

    def block(self, seconds: float) -> None:
        """Dial none of the held connections for this time: descriptors or ports are exhausted."""
        self._blocked_until = self._loop.now + seconds

    def unblock(self) -> None:
        """Dial the held connections: descriptors are free again."""
        self._blocked_until = 0.0
        self.retry()

    def schedule(self) -> None:
        """Set a timer for the time at which a backend may be usable, if clients are held."""
        if self._timer is None and self._held:
            now = self._loop.now
            at = self._pool.next_attempt_at(now)
            if at is not None:
                delay = max(at, self._blocked_until, now + _LEAST_INTERVAL) - now
                self._timer = self._loop.call_later(delay, self._on_timer)

    def retry(self) -> None:
        """Dial held connections, the longest held first, as long as a backend may be usable and the wave has room."""
        now = self._loop.now
        self._dialled = {each: at for each, at in self._dialled.items() if self._is_awaited(each, at)}
        self._sort()
        self.wave = False
        for connection in self._held.all():
            if not self._can_dial():
                break
            if len(self._dialled) >= WAVE:
                self.wave = True
                break
            self._dialled[connection] = now
            self._leave(connection)
        if not self._held:
            self._dialled.clear()  # these may have ended long ago when the next client is held
        self.schedule()

    def _can_dial(self) -> bool:
        """Return True if a held client may be dialled now."""
        now = self._loop.now
        at = self._pool.next_attempt_at(now)
        return at is not None and at <= now and self._blocked_until <= now

    def _leave(self, connection: Connection) -> None:
        """Dial a client, which is held no longer."""
        self._held.discard(connection)
        self._dial(connection)

    def _sort(self) -> None:
        if not self._ordered:
            self._held.sort(_ARRIVAL)
            self._ordered = True

    def _note_arrival(self, connection: Connection) -> None:
        if connection.accepted_at < self._newest:
            self._ordered = False
        else:
            self._newest = connection.accepted_at

    def _is_awaited(self, connection: Connection, dialled_at: float) -> bool:
        """Return True if the backend of a connection that left the queue a moment ago has not answered yet."""
        if connection.closed or connection in self._held or self._loop.now - dialled_at >= _SILENT:
            return False
        return connection.server is None or not connection.server.received

    def _on_timer(self) -> None:
        self._timer = None
        self.retry()

    def _expire(self, connection: Connection) -> None:
        """Abort a connection whose client has been held for its whole time, unless the wave alone keeps it waiting.

        Such a client leaves the queue before its turn, at the risk that its backend's kernel has no room for it.
        """
        if len(self._dialled) < WAVE or not self._can_dial():
            connection.abort("unserved")
        else:
            self._dialled[connection] = self._loop.now
            self._leave(connection)
