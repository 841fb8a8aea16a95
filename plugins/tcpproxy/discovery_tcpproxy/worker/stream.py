"""Proxied connections: a client socket, a backend socket, and the copying of bytes between the two.

Both sockets are registered edge-triggered, with a single epoll_ctl each. Bytes that are read from one socket are sent
to the other at once. The rest that the other socket does not accept is kept, at most one read buffer, and the reading
pauses until the rest is sent. A FIN is forwarded as a FIN, and an RST as an RST.
"""

import errno
import os
import select
import socket
from typing import Protocol

from discovery_tcpproxy.worker.buffer import ReadBuffer
from discovery_tcpproxy.worker.loop import Loop
from discovery_tcpproxy.worker.options import borrowed, end_sending, no_linger, send_last
from discovery_tcpproxy.worker.upstream import Upstream

WATCHED = select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLPRI | select.EPOLLET
_DRAINED = 16
"""Reads, of one buffer each, that forward what a peer sent before its RST: 4 MiB, more than socket buffers hold."""
_OUT = select.EPOLLOUT
_USUAL = select.EPOLLIN | select.EPOLLOUT
"""Events of an ordinary read: an edge-triggered socket that is writable reports EPOLLOUT with every event."""
_READ = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLPRI | select.EPOLLERR | select.EPOLLHUP
_ERROR = select.EPOLLERR
_URGENT = select.EPOLLPRI
_END = select.EPOLLRDHUP | select.EPOLLHUP
_MORE = _ERROR | _URGENT
_GAVE_UP = frozenset((errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH))
"""Errors of a connection whose probes or bytes nobody acknowledges: Linux reports the reason if a router or the lookup
of the neighbour has told one, and a timeout otherwise."""
_read, _write, _close = os.readv, os.write, os.close
"""Calls on descriptors cost the interpreter a quarter less than the methods of a socket object."""


class ConnectionOwner(Protocol):
    """Creator of connections; its methods are called when the state of a connection changes."""

    def connect_completed(self, connection: "Connection", events: int) -> None:
        """Handle the outcome of the connection attempt to the backend, a success or a failure."""

    def client_reset(self, connection: "Connection") -> None:
        """Handle a reset by a client that has no backend yet."""

    def client_finished(self, connection: "Connection") -> None:
        """Handle a FIN of a client that has no backend yet: the client has left, or has sent its whole request."""

    def connection_closed(self, connection: "Connection") -> None:
        """Handle the end of the connection, whose counters are final."""

    def connection_failed(self, connection: "Connection", error: Exception) -> None:
        """Handle an internal error that closed the connection."""


class End:
    """Client socket or backend socket of a connection, with the bytes that wait to be sent."""

    __slots__ = (
        "buffer",
        "busy",
        "connection",
        "eof",
        "fd",
        "peer",
        "pending",
        "received",
        "unread_events",
        "writable",
    )

    def __init__(self, connection: "Connection", fd: int, *, writable: bool) -> None:
        """Wrap a non-blocking socket that has no peer yet; `writable` states whether the socket is connected.

        A client is connected from the start, a backend is not.
        """
        self.connection = connection
        self.buffer = connection.buffer
        self.fd = fd
        self.peer: End = _NO_PEER
        self.pending: memoryview | None = None
        self.writable: bool = writable
        self.unread_events: int = 0  # events whose bytes were not read because the peer was not writable
        self.busy = False  # queued in `Loop.busy`
        self.eof: bool = False
        self.received = 0

    def event(self, events: int) -> None:
        """Handle events: complete a connect or a partial write, then read once and send the bytes to the peer.

        A short read has drained the socket. A worker spends most of its time in this function, which therefore makes no
        Python call on the usual path.
        """
        more = last = False
        if events != _USUAL or not self.writable:
            if not self.writable and events & _OUT:
                self._on_writable(events)
                if self.peer is _NO_PEER or self.connection.closed:
                    return
            if not events & _READ:
                return
            more = bool(events & _MORE)  # a read ends before urgent data, even if more bytes follow
            last = bool(events & _END) and not more
        peer = self.peer
        if not peer.writable:
            self._postpone_read(events)
            return
        buffer = self.buffer
        try:
            count = _read(self.fd, buffer.into)
        except BlockingIOError:
            return
        except OSError as error:
            self.connection.abort(_reason(error.errno))
            return
        if not count:
            if events & _ERROR:  # the socket was reset after its FIN
                self.connection.abort()
            elif not self.eof:
                if not peer.eof:
                    end_sending(peer.fd)
                self._fin_forwarded()
            return
        self.received += count
        self.connection.sent_last = self
        if count == buffer.size:
            more, last = True, False
        try:
            sent = (send_last if last else _write)(peer.fd, buffer.view[:count])
        except BlockingIOError:
            sent = 0
        except OSError as error:
            peer.forward_remaining()
            self.connection.abort(_reason(error.errno))
            return
        if sent < count:
            peer.queue(buffer.view[sent:count])
            self.unread_events = events
        elif last:
            self._fin_forwarded()
        elif more:
            self.unread_events = events
            if not self.busy:
                self.busy = True
                self.connection.loop.busy.append(self)

    def run_turn(self) -> None:
        """Continue a read that filled the buffer, for which edge-triggered epoll reports no further event."""
        self.busy = False
        if self.peer.writable and not self.connection.closed:
            events, self.unread_events = self.unread_events, 0
            self.event(events & _READ)

    def failed(self, error: Exception) -> None:
        """Abort the connection and report the error."""
        connection = self.connection
        connection.abort()
        connection.owner.connection_failed(connection, error)

    def queue(self, data: memoryview) -> None:
        """Keep a copy of the bytes, which are sent first as soon as the socket is writable."""
        self.pending = memoryview(bytes(data))
        self.writable = False
        self.connection.buffer.add_kept(len(data))

    def has_unread_fin(self) -> bool:
        """Return True if a FIN has arrived behind bytes that have not been read yet."""
        return bool(self.unread_events & _END)

    def forwarded(self) -> int:
        """Return the approximate number of bytes that were received here and sent to the peer."""
        return self.received if self.pending is None else self.received - len(self.pending)

    def has_received_data(self) -> bool:
        """Return True if bytes arrived on this socket before its error."""
        try:
            # The kernel reports an error once, before the bytes: reading SO_ERROR clears it.
            with borrowed(self.fd) as sock:
                sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                return bool(sock.recv(1, socket.MSG_PEEK))
        except OSError:
            return False

    def _fin_forwarded(self) -> None:
        """Record a FIN that was received here and forwarded to the peer."""
        self.eof = True
        self.peer.writable = False
        if self.peer.eof:
            self.connection.close()

    def _postpone_read(self, events: int) -> None:
        """Leave the bytes in the socket until the peer is writable or connected."""
        self.unread_events = events
        connection = self.connection
        if events & _ERROR:
            if connection.open:
                with borrowed(self.fd) as sock:
                    connection.abort(_reason(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)))
            else:
                connection.owner.client_reset(connection)
        elif events & _END and not connection.open:
            connection.owner.client_finished(connection)

    def _on_writable(self, events: int) -> None:
        pending = self.pending
        connection = self.connection
        if pending is None:
            if not connection.open and not connection.closed:
                connection.owner.connect_completed(connection, events)
            return
        try:
            sent = _write(self.fd, pending)
        except BlockingIOError:
            return
        except OSError as error:
            self.forward_remaining()
            connection.abort(_reason(error.errno))
            return
        connection.buffer.add_kept(-sent)
        if sent < len(pending):
            self.pending = pending[sent:]
            return
        self.pending = None
        self.writable = True
        self.resume_peer()

    def resume_peer(self) -> None:
        """Read the bytes that the peer left in its socket while this socket was not writable."""
        peer = self.peer
        if peer.unread_events and not peer.busy:
            events, peer.unread_events = peer.unread_events, 0
            peer.event(events & _READ)

    def forward_remaining(self) -> None:
        """Forward the bytes that arrived here before the RST: often an error message of the application."""
        peer, buffer = self.peer, self.connection.buffer
        if not peer.writable:
            return
        try:
            for _ in range(_DRAINED):
                count = _read(self.fd, buffer.into)
                if not count:
                    return
                self.received += count
                _write(peer.fd, buffer.view[:count])
        except OSError:
            return


class Connection:
    """A client connection, later with a connection to a backend."""

    __slots__ = (
        "accepted_at",
        "buffer",
        "client",
        "client_address",
        "closed",
        "counted",
        "dialled_at",
        "hold_until",
        "idle_mark",
        "idle_since",
        "loop",
        "open",
        "original_destination",
        "other_addresses",
        "owner",
        "probe_mark",
        "probed_within",
        "reason",
        "reset",
        "rested",
        "sent_last",
        "server",
        "server_address",
        "tried",
        "upstream",
    )

    def __init__(
        self,
        owner: ConnectionOwner,
        loop: Loop,
        buffer: ReadBuffer,
        fd: int,
        address: tuple[str, int],
        *,
        counted: bool = False,
    ) -> None:
        """Create the connection of a client that was accepted; `address` is `("", 0)` for a Unix socket."""
        self.owner = owner
        self.loop = loop
        self.buffer = buffer
        self.client_address = address
        self.client = End(self, fd, writable=True)
        self.server: End | None = None
        self.open = False
        self.closed = False
        self.reset = False
        self.reason = ""
        self.upstream: Upstream | None = None
        self.server_address: tuple[str, int] | None = None  # dialled, or connected
        self.other_addresses: tuple[tuple[str, int], ...] = ()  # of the same backend, to dial after a failure
        self.tried: tuple[Upstream, ...] = ()
        self.counted = counted  # towards the limits of the listener
        self.original_destination: tuple[str, int] | None = None  # from a PROXY protocol header
        self.accepted_at = loop.now
        self.dialled_at = 0.0
        self.hold_until: float | None = None  # end of the time for which the client waits for a backend
        self.idle_mark = self.probe_mark = -1  # bytes at the last check: forwarded, and received
        self.idle_since = 0.0
        self.sent_last: End = _NO_PEER
        self.rested = False  # no byte was received between the last two checks for dead peers
        self.probed_within = 0.0  # seconds within which keep-alive detects a dead backend; 0: the usual minutes

    def owes_answer(self) -> bool:
        """Return True if the client sent last, and may wait for an answer of the backend.

        The kernel's ages of a socket do not tell this: an answer and the next request often have the same age, since
        the kernel counts in ticks of some milliseconds.
        """
        return self.sent_last is self.client and self.server is not None and not self.server.eof

    def attach_server(self, fd: int) -> None:
        """Use a connecting socket as the backend side of the connection."""
        self.server = server = End(self, fd, writable=False)
        server.peer = self.client
        self.client.peer = server
        self.loop.add(server.fd, server, WATCHED)

    def detach_server(self) -> None:
        """Close the backend socket, whose connection attempt failed."""
        server = self.server
        if server is not None:
            self.server = None
            self.client.peer = _NO_PEER
            server.peer = _NO_PEER
            self.loop.forget(server.fd)
            self.loop.deferred.append(DeferredClose(server.fd))

    def connected(self, header: bytes = b"") -> None:
        """Start copying, after `header` was sent to the backend."""
        server = self.server
        assert server is not None  # noqa: S101
        self.open = True
        if header:
            try:
                sent = _write(server.fd, header)
            except BlockingIOError:
                sent = 0
            except OSError:
                self.abort()
                return
            if sent < len(header):
                server.queue(memoryview(header)[sent:])
                return
        server.writable = True
        server.resume_peer()

    def close(self, reason: str = "done") -> None:
        """Close both sockets with a FIN (the kernel sends an RST on a socket with unread bytes)."""
        if self.closed:
            return
        self.closed = True
        self.reason = reason
        client, server, loop = self.client, self.server, self.loop
        loop.forget(client.fd)
        if client.pending is not None:
            self.buffer.add_kept(-len(client.pending))
        if server is not None:
            loop.forget(server.fd)
            if server.pending is not None:
                self.buffer.add_kept(-len(server.pending))
        loop.deferred.append(self)
        self.owner.connection_closed(self)

    def abort(self, reason: str = "reset") -> None:
        """Close both sockets with an RST."""
        if not self.closed:
            self.reset = True
            self.close(reason)

    def finish(self) -> None:
        """Close the sockets at the end of the batch."""
        client, server = self.client, self.server
        if self.reset:
            no_linger(client.fd)
            if server is not None:
                no_linger(server.fd)
        _close(client.fd)
        if server is not None:
            _close(server.fd)
            self.server = None
        client.peer = self.client = self.sent_last = _NO_PEER  # leaves no reference cycle


def _reason(error: int | None) -> str:
    """Return why a connection ends whose socket has this error."""
    return "unacknowledged" if error in _GAVE_UP else "reset"


class DeferredClose:
    """Descriptor that is closed at the end of the batch, when no event can refer to its number."""

    __slots__ = ("_fd",)

    def __init__(self, fd: int) -> None:
        """Remember the descriptor."""
        self._fd = fd

    def finish(self) -> None:
        """Close the descriptor."""
        os.close(self._fd)


_NO_PEER: End = object.__new__(End)
_NO_PEER.writable = False
_NO_PEER.eof = False
_NO_PEER.unread_events = 0
