"""One connection: two ends, and the bytes between them.

Both ends are watched edge-triggered, with one epoll_ctl. What is read from one is sent to the other at once; what the
other does not take is kept, one buffer at most, and nothing more is read until it has gone. A FIN is passed on as one,
and an RST as an RST.
"""

import os
import select
import socket
from typing import Protocol

from discovery_tcpproxy.worker.backends import Backend
from discovery_tcpproxy.worker.buffer import Buffer
from discovery_tcpproxy.worker.loop import Loop
from discovery_tcpproxy.worker.options import borrowed, end_sending, no_linger, send_last

WATCHED = select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLPRI | select.EPOLLET
_DRAINED = 16
"""Reads of what somebody sent before it reset the connection."""
_OUT = select.EPOLLOUT
_USUAL = select.EPOLLIN | select.EPOLLOUT
"""Bytes have come, and more of them can go: edge-triggered, what can be written is told along with every other."""
_READ = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLPRI | select.EPOLLERR | select.EPOLLHUP
_ERROR = select.EPOLLERR
_URGENT = select.EPOLLPRI
_END = select.EPOLLRDHUP | select.EPOLLHUP
_MORE = _ERROR | _URGENT
_read, _write = os.readv, os.write
"""A fourth less to do for the interpreter than a socket's methods."""


class Owner(Protocol):
    """Makes connections, and is called when their state changes."""

    def answered(self, connection: "Connection", events: int) -> None:
        """The dialled backend has answered, or has not."""

    def gone(self, connection: "Connection") -> None:
        """The client went away before it was connected."""

    def finished(self, connection: "Connection") -> None:
        """The client sent a FIN before it was connected: it has left, or has sent all that it will."""

    def closed(self, connection: "Connection") -> None:
        """The connection has ended; its figures are final."""

    def broken(self, connection: "Connection", error: Exception) -> None:
        """Something is wrong with the program; the connection has been closed."""


class End:
    """One end of a connection."""

    __slots__ = (
        "buffer",
        "busy",
        "connection",
        "eof",
        "fd",
        "peer",
        "pending",
        "received",
        "takes",
        "waiting",
    )

    def __init__(self, connection: "Connection", fd: int, *, takes: bool) -> None:
        """A non-blocking socket without a peer; `takes`: bytes can be sent there."""
        self.connection = connection
        self.buffer = connection.buffer
        self.fd = fd
        self.peer: End = _NOBODY
        self.pending: memoryview | None = None
        self.takes: bool = takes
        self.waiting: int = 0  # what was reported, if the peer did not take what can be read
        self.busy = False  # it waits for its turn
        self.eof: bool = False
        self.received = 0

    def event(self, events: int) -> None:
        """Flush or connect; read once, and send it to the peer. A short read has drained the socket.

        One function, without calls of its own on the usual path: this is where a worker spends its time.
        """
        more = last = False
        if events != _USUAL or not self.takes:
            if not self.takes and events & _OUT:
                self._writable(events)
                if self.peer is _NOBODY or self.connection.closed:
                    return
            if not events & _READ:
                return
            more = bool(events & _MORE)  # a read stops at urgent data, however much follows
            last = bool(events & _END) and not more
        peer = self.peer
        if not peer.takes:
            self._wait(events)
            return
        buffer = self.buffer
        try:
            count = _read(self.fd, buffer.into)
        except BlockingIOError:
            return
        except OSError:
            self.connection.abort()
            return
        if not count:
            if events & _ERROR:  # it was reset after its FIN
                self.connection.abort()
            elif not self.eof:
                if not peer.eof:
                    end_sending(peer.fd)
                self._ended()
            return
        self.received += count
        if count == buffer.size:
            more, last = True, False
        try:
            sent = (send_last if last else _write)(peer.fd, buffer.view[:count])
        except BlockingIOError:
            sent = 0
        except OSError:
            peer.last_words()
            self.connection.abort()
            return
        if sent < count:
            peer.keep(buffer.view[sent:count])
            self.waiting = events
        elif last:
            self._ended()
        elif more:
            self.waiting = events
            if not self.busy:
                self.busy = True
                self.connection.loop.busy.append(self)

    def turn(self) -> None:
        """Go on with a read that filled the buffer: its descriptor will not be reported again."""
        self.busy = False
        if self.peer.takes and not self.connection.closed:
            events, self.waiting = self.waiting, 0
            self.event(events & _READ)

    def failed(self, error: Exception) -> None:
        """Give the connection up."""
        connection = self.connection
        connection.abort()
        connection.owner.broken(connection, error)

    def keep(self, data: memoryview) -> None:
        """Send this as soon as it can be; nothing else before it."""
        self.pending = memoryview(bytes(data))
        self.takes = False
        self.connection.buffer.keep(len(data))

    def finished(self) -> bool:
        """Whether a FIN is known to have come behind bytes that nobody has taken yet."""
        return bool(self.waiting & _END)

    def moved(self) -> int:
        """Bytes that came in here and have been handed on, more or less."""
        return self.received if self.pending is None else self.received - len(self.pending)

    def heard(self) -> bool:
        """Whether something has come here, before whatever went wrong."""
        try:
            # An error is told once, before what came; without one there is nothing to be told.
            with borrowed(self.fd) as sock:
                sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                return bool(sock.recv(1, socket.MSG_PEEK))
        except OSError:
            return False

    def _ended(self) -> None:
        """A FIN has come, and has been passed on."""
        self.eof = True
        self.peer.takes = False
        if self.peer.eof:
            self.connection.close()

    def _wait(self, events: int) -> None:
        """Read when the peer takes something again, or when there is one."""
        self.waiting = events
        connection = self.connection
        if events & _ERROR:
            if connection.open:
                connection.abort()
            else:
                connection.owner.gone(connection)
        elif events & _END and not connection.open:
            connection.owner.finished(connection)

    def _writable(self, events: int) -> None:
        pending = self.pending
        connection = self.connection
        if pending is None:
            if not connection.open and not connection.closed:
                connection.owner.answered(connection, events)
            return
        try:
            sent = _write(self.fd, pending)
        except BlockingIOError:
            return
        except OSError:
            self.last_words()
            connection.abort()
            return
        connection.buffer.keep(-sent)
        if sent < len(pending):
            self.pending = pending[sent:]
            return
        self.pending = None
        self.takes = True
        self.resume()

    def resume(self) -> None:
        """Let the peer read the bytes that it has left in its socket."""
        peer = self.peer
        if peer.waiting and not peer.busy:
            events, peer.waiting = peer.waiting, 0
            peer.event(events & _READ)

    def last_words(self) -> None:
        """Hand on what this end had sent before it reset the connection: often it says why."""
        peer, buffer = self.peer, self.connection.buffer
        if not peer.takes:
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
    """A client, and the backend that it is connected to, if it is yet."""

    __slots__ = (
        "address",
        "backend",
        "began",
        "buffer",
        "client",
        "closed",
        "counted",
        "dialled",
        "due",
        "looked_at",
        "loop",
        "mark",
        "marked",
        "open",
        "others",
        "owner",
        "reached",
        "reason",
        "reset",
        "server",
        "target",
        "tried",
    )

    def __init__(self, owner: Owner, loop: Loop, buffer: Buffer, fd: int, address: tuple[str, int]) -> None:
        """A client that has just come, from an IP address and port (of a Unix socket: empty, and 0)."""
        self.owner = owner
        self.loop = loop
        self.buffer = buffer
        self.address = address
        self.client = End(self, fd, takes=True)
        self.server: End | None = None
        self.open = False
        self.closed = False
        self.reset = False
        self.reason = ""
        self.backend: Backend | None = None
        self.target: tuple[str, int] | None = None  # the address of the backend that is dialled, or connected to
        self.others: tuple[tuple[str, int], ...] = ()  # those to dial if that fails
        self.tried: tuple[Backend, ...] = ()
        self.counted = False  # against the listener's limits
        self.reached: tuple[str, int] | None = None  # where the client connected to, if a proxy has told
        self.began = loop.now
        self.dialled = 0.0
        self.due: float | None = None  # when holding it ends
        self.mark = -1  # what had moved when it was last looked at, and since when no more has
        self.marked = 0.0
        self.looked_at = -1  # what had moved when acknowledgements were last asked for

    def dial(self, fd: int) -> None:
        """Take a socket that is connecting as the other end."""
        self.server = server = End(self, fd, takes=False)
        server.peer = self.client
        self.client.peer = server
        self.loop.add(server.fd, server, WATCHED)

    def hang_up(self) -> None:
        """Close the socket that did not become connected."""
        server = self.server
        if server is not None:
            self.server = None
            self.client.peer = _NOBODY
            server.peer = _NOBODY
            self.loop.forget(server.fd)
            self.loop.deferred.append(Closing(server.fd))

    def connected(self, header: bytes = b"") -> None:
        """Begin to copy, after this header to the backend."""
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
                server.keep(memoryview(header)[sent:])
                return
        server.takes = True
        server.resume()

    def close(self, reason: str = "done") -> None:
        """Close both ends, each with a FIN, unless there is something unread."""
        if self.closed:
            return
        self.closed = True
        self.reason = reason
        client, server, loop = self.client, self.server, self.loop
        loop.forget(client.fd)
        if client.pending is not None:
            self.buffer.keep(-len(client.pending))
        if server is not None:
            loop.forget(server.fd)
            if server.pending is not None:
                self.buffer.keep(-len(server.pending))
        loop.deferred.append(self)
        self.owner.closed(self)

    def abort(self, reason: str = "reset") -> None:
        """Close both ends, each with an RST."""
        if not self.closed:
            self.reset = True
            self.close(reason)

    def settle(self) -> None:
        """Close the sockets."""
        client, server = self.client, self.server
        for end in (client,) if server is None else (client, server):
            if self.reset:
                no_linger(end.fd)
            os.close(end.fd)
        client.peer, self.client, self.server = _NOBODY, _NOBODY, None  # no cycle is left


class Closing:
    """A socket that is closed at the end of the batch."""

    __slots__ = ("_fd",)

    def __init__(self, fd: int) -> None:
        """Close this one."""
        self._fd = fd

    def settle(self) -> None:
        """Close it."""
        os.close(self._fd)


_NOBODY: End = object.__new__(End)
_NOBODY.takes = False
_NOBODY.eof = False
_NOBODY.waiting = 0
