"""A listener: accepts clients, finds a backend for each, holds those for whom there is none."""

import errno
import os
import select
import socket
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from discovery_tcpproxy.worker import local, proxyproto
from discovery_tcpproxy.worker.access import Access, Limits, Senders
from discovery_tcpproxy.worker.backends import Backend, Backends
from discovery_tcpproxy.worker.buffer import Buffer
from discovery_tcpproxy.worker.descriptors import EXHAUSTED, Descriptors
from discovery_tcpproxy.worker.figures import Figures
from discovery_tcpproxy.worker.header import HeaderReader, header_of
from discovery_tcpproxy.worker.loop import Deadlines, Loop, Timer
from discovery_tcpproxy.worker.options import is_itself, no_linger
from discovery_tcpproxy.worker.stream import WATCHED, Connection
from discovery_tcpproxy.worker.upkeep import Upkeep

_DIALS = socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
_OURS = EXHAUSTED | {errno.EADDRNOTAVAIL, errno.EAGAIN}
"""Errors of dialling that no backend is to blame for: there is no descriptor, or no free port, here."""
_DIALLED = (errno.EINPROGRESS, 0)
_FAILED = select.EPOLLERR | select.EPOLLHUP
_AGAIN = 0.25
"""Seconds until the next attempt to dial, where there was no descriptor or port for it."""
_SOONEST = 0.02
"""Seconds, at least, between two looks at those who are held."""


class Shared(NamedTuple):
    """The objects that all listeners of a worker share."""

    loop: Loop
    buffer: Buffer
    descriptors: Descriptors
    tell: Callable[[Mapping[str, Any]], None]
    """Send an event to the control plane."""
    ended: Callable[[], None]
    """A connection has ended."""


class Listener:
    """One listener, of any number of sockets; its connections outlive them."""

    def __init__(self, name: str, shared: Shared) -> None:
        """Prepare; `configure` comes next."""
        self.name = name
        self.figures = Figures()
        self.backends = Backends()
        self.connections: set[Connection] = set()
        self.service = ""
        self._shared = shared
        self._loop = shared.loop
        self._settings: Mapping[str, Any] = {}
        self._access = Access()
        self._senders = Senders()
        self._limits = Limits()
        self._guarded = False  # whether anybody may be refused
        self._dialling = Deadlines[Connection](shared.loop, 0.0, self._unanswered)
        self._held = Deadlines[Connection](shared.loop, 0.0, self._unserved)
        self._headers = Deadlines[Connection](shared.loop, 0.0, self._no_header)
        self._waking: Timer | None = None
        self._upkeep = Upkeep(shared.loop, self.connections)
        self._ending = False
        self._cramped = 0.0  # until then nothing can be dialled, for want of descriptors or ports

    def configure(self, settings: Mapping[str, Any]) -> None:
        """Take the settings, those of `targets.settings`; connections go on, under the new ones where they can."""
        before, self._settings = self._settings, settings
        self.service = settings["service"]
        if before.get("balance") != settings["balance"]:
            self.backends.balance(settings["balance"])
        self._access = Access(settings["allow"], settings["deny"])
        self._limits.change(settings["max_connections"], settings["max_connections_per_client"])
        if self._limits.limited:
            self._count_all()
        self._guarded = self._limits.limited or not self._access.open
        self._dialling.seconds = settings["connect_timeout"]
        self._held.seconds = settings["hold"]
        self._senders = Senders(settings["accept_proxy"])
        self._headers.seconds = settings["accept_proxy_timeout"]
        self._upkeep.configure(settings["idle_timeout"], settings["unacknowledged_timeout"])

    def close(self) -> None:
        """End the listener, which has no sockets and no connections any more."""
        self._upkeep.close()
        if self._waking is not None:
            self._waking.cancel()

    def end_idle(self) -> None:
        """Close connections as they become idle, and hold no client: the daemon sends no more backends."""
        self._ending = True
        for connection in (*self._held.all(), *self._headers.all()):
            connection.abort("stopped")
        self._upkeep.end_idle()

    def update(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Take the service's backends, all of them; those who are held are connected if they can be."""
        left = {backend: backend.departures for backend in self.backends.update(records)}
        drain = self._settings["drain"]
        if left and drain is not None:
            if drain:
                self._loop.call_later(drain, lambda: self._leave(left))
            else:
                self._leave(left)
        self._wake()

    def accepted(self, fd: int, address: tuple[str, int]) -> None:
        """Serve a client that has just come, from a `plain` IP address and a port (of a Unix socket: empty, and 0)."""
        proxied = self._senders.any and self._senders.include(address[0])
        if self._guarded and not proxied and (refusal := self._refusal(address[0])):
            self.figures.rejected[refusal] += 1
            no_linger(fd)
            os.close(fd)  # it has never been watched, so that nothing is meant for it
            return
        self.figures.total += 1
        loop, shared = self._loop, self._shared
        connection = Connection(self, loop, shared.buffer, fd, address)
        connection.counted = self._limits.limited and not proxied
        self.connections.add(connection)
        if not self._upkeep.unacknowledged.watching:
            self._upkeep.unacknowledged.watch()
        shared.descriptors.taken += 1
        handler = connection.client if address[0] else local.LocalClient(connection.client)
        try:
            if proxied:
                loop.add(fd, HeaderReader(connection, handler, self.announced), WATCHED)
                self._headers.add(connection)
            else:
                self._dial(connection)
                if not connection.closed:  # after the backend: that one's answer, if there already, comes first
                    loop.add(fd, handler, WATCHED)
        except OSError:  # epoll takes no more: fs.epoll.max_user_watches
            connection.abort("unserved")
            raise

    def announced(self, connection: Connection, header: proxyproto.Header) -> None:
        """A proxy in front has told whom the connection is from, unless it is from itself."""
        self._headers.discard(connection)
        if header.source is not None:
            connection.address, connection.reached = header.source, header.destination
        if self._guarded and (refusal := self._refusal(connection.address[0])):
            connection.abort(refusal)
            return
        connection.counted = self._limits.limited
        self._dial(connection)

    @property
    def holding(self) -> int:
        """The number of clients that wait for a backend."""
        return len(self._held)

    def state(self, connection: Connection) -> str:
        """The state of a connection, in a word."""
        server = connection.server
        if connection.open and server is not None:
            return "half-closed" if connection.client.eof or server.eof else "open"
        if connection in self._headers:
            return "header"
        return "held" if connection in self._held else "connecting"

    # What connections report.

    def answered(self, connection: Connection, events: int) -> None:
        """See `Owner`."""
        server, backend, figures = connection.server, connection.backend, self.figures
        if server is None or backend is None:
            return
        moved = connection.target is not backend.address
        doubtful = moved or backend.failures or not backend.connected
        if (events & _FAILED and not server.heard()) or (doubtful and is_itself(server.fd)):
            self._missed(connection)
            self._dial(connection)
            return
        self._dialling.discard(connection)
        seconds = self._loop.now - connection.dialled
        if moved and connection.target is not None:
            backend.prefer(connection.target)
        backend.connect_seconds += seconds
        figures.connected += 1
        figures.connect_seconds += seconds
        recovered = self.backends.connected(backend)
        version = self._settings["send_proxy"]
        connection.connected(header_of(connection, version) if version else b"")
        if recovered:
            self._wake()

    def gone(self, connection: Connection) -> None:
        """See `Owner`."""
        connection.abort("gone")

    def finished(self, connection: Connection) -> None:
        """See `Owner`. TCP does not tell a half-close from a client that left: a held client has left."""
        if connection in self._held:
            connection.abort("gone")

    def closed(self, connection: Connection) -> None:
        """See `Owner`."""
        figures, backend, server = self.figures, connection.backend, connection.server
        self.connections.discard(connection)
        sent = 0 if server is None else server.received
        received = connection.client.received
        figures.received += received
        figures.sent += sent
        if backend is not None:
            backend.received += sent
            backend.sent += received
            if connection.open:
                self.backends.closed(backend)
            else:
                self.backends.abandoned(backend)
                self._schedule()  # what it was to find out somebody else has to
        if not connection.open:
            for waiting in (self._dialling, self._held, self._headers):
                waiting.discard(connection)
            figures.rejected[connection.reason] += 1
        if connection.counted:
            self._limits.release(connection.address[0])
        if self._settings["access_log"]:
            self._log_access(connection, received, sent)
        self._shared.ended()

    def broken(self, connection: Connection, error: Exception) -> None:
        """See `Owner`."""
        message = f"{type(error).__name__}: {error}"
        fields = {"listener": self.name, "client": connection.address[0], "error": message}
        self._shared.tell({"event": "log", "level": "error", "message": "connection broken", "fields": fields})

    # Finding a backend.

    def _dial(self, connection: Connection) -> None:
        settings, loop = self._settings, self._loop
        host = connection.address[0]
        while connection.backend is not None or len(connection.tried) <= settings["retries"]:
            backend = connection.backend
            if backend is None:
                backend = self.backends.next(host, connection.tried, loop.now, last_resort=not settings["hold"])
                if backend is None:
                    break
                connection.backend, connection.others = backend, backend.others
                connection.target = target = backend.address
            else:  # one of its addresses has failed
                connection.target, *others = connection.others
                connection.others, target = tuple(others), connection.target
            connection.dialled = loop.now
            try:
                sock = socket.SocketType(socket.AF_INET6 if ":" in target[0] else socket.AF_INET, _DIALS)
            except OSError:
                self._give_back(connection)
                break
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            try:
                code = sock.connect_ex(target)
            except OSError:  # of an interface that is not here
                code = errno.ENETUNREACH
            if code in _DIALLED:
                if connection.tried:
                    self.figures.retries += 1
                connection.dial(sock.detach())
                self._dialling.add(connection)
                return
            sock.close()
            if code in _OURS:
                self._give_back(connection)
                break
            self._missed(connection)
        self._hold(connection)

    def _give_back(self, connection: Connection) -> None:
        """It is not the backend's fault: wait, and accept nobody else, until there may be room here."""
        self._cramped = self._loop.now + _AGAIN
        self._shared.descriptors.exhausted()
        if connection.backend is not None:
            self.backends.abandoned(connection.backend)
            connection.backend = None

    def _missed(self, connection: Connection) -> None:
        """The backend could not be connected to. It stays the connection's while it has addresses to be tried."""
        backend = connection.backend
        if backend is None:
            return
        self._dialling.discard(connection)
        connection.hang_up()
        if connection.others:
            return
        connection.backend = None
        connection.tried += (backend,)
        self.figures.connect_failures += 1
        self.backends.failed(backend, self._loop.now)
        self._schedule()

    def _unanswered(self, connection: Connection) -> None:
        self._missed(connection)
        self._dial(connection)

    # Holding.

    def _hold(self, connection: Connection) -> None:
        connection.tried = ()
        if not self._settings["hold"]:
            connection.abort("unserved")
        elif self._ending:
            connection.abort("stopped")
        elif connection.client.finished():
            connection.abort("gone")
        elif connection.due is not None:
            self._held.add(connection, connection.due)
        elif len(self._held) >= self._settings["hold_connections"]:
            connection.abort("full")
        else:
            self.figures.held += 1
            connection.due = self._held.add(connection)
        self._schedule()

    def _unserved(self, connection: Connection) -> None:
        connection.abort("unserved")

    def _schedule(self) -> None:
        """Try the held connections again when a backend may be usable."""
        if self._waking is None and self._held:
            now = self._loop.now
            at = self.backends.usable_at(now)
            if at is not None:
                self._waking = self._loop.call_later(max(at, self._cramped, now + _SOONEST) - now, self._woken)

    def _woken(self) -> None:
        self._waking = None
        self._wake()

    def relieved(self) -> None:
        """There is room again: those who have been accepted come first."""
        self._cramped = 0.0
        self._wake()

    def _wake(self) -> None:
        for connection in self._held.all():
            at = self.backends.usable_at(self._loop.now)
            if at is None or at > self._loop.now or self._cramped > self._loop.now:
                break
            self._held.discard(connection)
            self._dial(connection)
        self._schedule()

    # The rest.

    def _refusal(self, host: str) -> str:
        """Why a client may not be served, or nothing: then it has been counted if there are limits."""
        if not self._access.permits(host):
            return "denied"
        return "limit" if self._limits.limited and not self._limits.take(host) else ""

    def _count_all(self) -> None:
        """Count those that came while nothing was limited."""
        for connection in self.connections:
            if not connection.counted and connection not in self._headers:
                connection.counted = True
                self._limits.add(connection.address[0])

    def _no_header(self, connection: Connection) -> None:
        connection.abort("header")

    def _leave(self, left: Mapping[Backend, int]) -> None:
        for connection in list(self.connections):
            backend = connection.backend
            if backend is None or not backend.gone or left.get(backend) != backend.departures:
                continue
            if connection.open:
                connection.abort("left")
            else:
                self._dialling.discard(connection)
                connection.hang_up()
                connection.backend = None
                self.backends.abandoned(backend)
                self._dial(connection)

    def _log_access(self, connection: Connection, received: int, sent: int) -> None:
        backend = connection.backend
        self._shared.tell(
            {
                "event": "access",
                "listener": self.name,
                "service": self.service,
                "client": list(connection.address),
                "backend": None if backend is None else backend.id,
                "address": None if backend is None or connection.target is None else list(connection.target),
                "seconds": round(self._loop.now - connection.began, 6),
                "received": received,
                "sent": sent,
                "end": connection.reason,
            }
        )
