"""Answers queries over TCP (RFC 7766): pipelined queries, and a limited number of connections of a limited age."""

import asyncio
import socket
from collections.abc import Callable

from discovery.toolkit import wait_for_event
from discovery_dns.sockets import BACKLOG

_QUERIES = 64
"""Queries of one connection that are answered before other tasks of the loop get their turn: about 2 ms."""
_UNSENT_BYTES = 65536
"""Bytes of answers that a client may leave unread before no more of its queries are read: one answer of full length."""
_SWEEP = 4
"""Looks for connections to close within the time that a connection may be idle."""
_TURNS = 4
"""Turns of the loop until accepted connections exist, and what their clients have sent is read: asyncio takes 3."""
_LENGTH_BYTES = 2
"""Bytes of the length before each message (RFC 1035, 4.2.2)."""

Respond = Callable[[bytes], bytes | None]


class _Connection(asyncio.Protocol):
    """A connection: answers in the order of the queries."""

    def __init__(self, server: "TcpServer") -> None:
        self._server = server
        self._received = bytearray()
        self._transport: asyncio.Transport | None = None
        self._is_client_behind = False  # with reading answers
        self._has_ended = False  # the client sends no more, or the server ends
        self._has_answered = False
        self._is_last = False  # what is asked next is the last
        self._scheduled: asyncio.Handle | None = None
        self._made_at = self.active_at = server.now()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - for mypy: a stream's
        self._transport = transport
        transport.set_write_buffer_limits(_UNSENT_BYTES)
        self._server.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._transport = None
        if self._scheduled is not None:
            self._scheduled.cancel()
        self._server.remove(self)

    def data_received(self, data: bytes) -> None:
        self._received += data
        if self._scheduled is None:
            self._answer()

    def eof_received(self) -> bool:
        self._has_ended = True
        return self._scheduled is not None or self._is_client_behind  # True: queries are left

    def pause_writing(self) -> None:
        self._is_client_behind = True
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._is_client_behind = False
        self._server.active(self)
        if self._scheduled is None and self._transport is not None:
            self._scheduled = asyncio.get_running_loop().call_soon(self._answer)

    def finish(self) -> None:
        """Close the connection once what was asked is answered, and read. A new connection has time for a query."""
        left = self._made_at + self._server.first_query - self._server.now()
        if not self._has_answered and left > 0:
            self._is_last = True
            asyncio.get_running_loop().call_later(left, self._close_unless_busy)
            return
        self._close_unless_busy()

    def _close_unless_busy(self) -> None:
        self._has_ended = True
        if self._transport is not None and self._scheduled is None and not self._is_client_behind:
            self._transport.close()

    def expire(self) -> None:
        """Close the connection now, whether the client has read its answers or not."""
        if self._transport is not None:
            (self._transport.abort if self._transport.get_write_buffer_size() else self._transport.close)()

    def abort(self) -> None:
        """End the connection at once."""
        if self._transport is not None:
            self._transport.abort()

    def _answer(self) -> None:
        """Answer complete queries while the client reads, and leave the others for the next turn of this connection."""
        self._scheduled = None
        for _ in range(_QUERIES):
            transport = self._transport
            if transport is None or transport.is_closing() or self._is_client_behind:
                return
            query = self._next_query()
            if query is None:
                (transport.close if self._has_ended else transport.resume_reading)()
                return
            answer = self._server.respond(query)
            if answer is None:  # what follows bytes that are no query is not to be trusted either
                transport.close()
                return
            transport.write(len(answer).to_bytes(_LENGTH_BYTES, "big") + answer)
            self._has_answered = True
            self._has_ended |= self._is_last
            self._server.active(self)
        if self._transport is not None:
            self._transport.pause_reading()
        self._scheduled = asyncio.get_running_loop().call_soon(self._answer)

    def _next_query(self) -> bytes | None:
        """Take a complete query out of what was received; None if there is none."""
        end = _LENGTH_BYTES + int.from_bytes(self._received[:_LENGTH_BYTES], "big")
        if len(self._received) < end:
            return None
        query = bytes(self._received[_LENGTH_BYTES:end])
        del self._received[:end]
        return query


class TcpServer:
    """Answers queries on one or several listening sockets. For one event loop."""

    def __init__(self, respond: Respond, *, most: int, idle_timeout: float, first_query: float) -> None:
        """Create a server without sockets. `respond` returns the answer to a message.

        At most `most` connections are open. A connection is closed after `idle_timeout` seconds without an answer that
        the client reads. When the server ends, a new connection has `first_query` seconds for its first query.
        """
        self.respond = respond
        self.most, self.idle_timeout, self.first_query = most, idle_timeout, first_query
        self.displaced = 0
        """The number of connections that were closed for a new connection."""
        self._connections: dict[_Connection, None] = {}  # the longest idle first
        self._none_left = asyncio.Event()
        self._is_ending = False
        self._servers: dict[socket.socket, asyncio.Server] = {}
        self._loop = asyncio.get_running_loop()
        self._sweeping: asyncio.TimerHandle | None = None

    @property
    def connections(self) -> int:
        """The number of open connections. From any thread."""
        return len(self._connections)

    def now(self) -> float:
        """Return the time of the loop in seconds."""
        return self._loop.time()

    async def listen(self, sock: socket.socket) -> None:
        """Accept connections of `sock`, which listens and is the server's from now on. Raises OSError."""
        self._servers[sock] = await self._loop.create_server(lambda: _Connection(self), sock=sock, backlog=BACKLOG)
        if self._sweeping is None:
            self._sweep()

    def stop_listening(self, sock: socket.socket) -> None:
        """Close `sock`; its connections go on."""
        server = self._servers.pop(sock, None)
        if server is not None:
            server.close()

    async def close(self, patience: float) -> None:
        """Close everything. What clients have asked is answered; they have `patience` seconds to read the answers."""
        for sock in tuple(self._servers):
            self.stop_listening(sock)
        if self._sweeping is not None:
            self._sweeping.cancel()
        for _ in range(_TURNS):
            await asyncio.sleep(0)
        self._is_ending = True
        for each in tuple(self._connections):
            each.finish()
        if self._connections:
            await wait_for_event(self._none_left, patience)
        for each in tuple(self._connections):
            each.abort()
        await asyncio.sleep(0)  # the loop closes what was aborted

    def add(self, connection: _Connection) -> None:
        """Count a new connection in place of those that have been idle the longest, if there are too many."""
        self._connections[connection] = None
        self._none_left.clear()
        if self._is_ending:
            connection.finish()
        while len(self._connections) > self.most:
            longest_idle = next(iter(self._connections))
            del self._connections[longest_idle]  # at once: more connections may come before it is closed
            self.displaced += 1
            longest_idle.abort()

    def active(self, connection: _Connection) -> None:
        """Note that a connection has got an answer, or that its client reads."""
        connection.active_at = self.now()
        if connection in self._connections:
            del self._connections[connection]
            self._connections[connection] = None

    def remove(self, connection: _Connection) -> None:
        """Forget a connection that has ended."""
        self._connections.pop(connection, None)
        if not self._connections:
            self._none_left.set()

    def _sweep(self) -> None:
        """Close connections that have been idle for too long, and look again later."""
        oldest = self.now() - self.idle_timeout
        for each in tuple(self._connections):
            if each.active_at > oldest:
                break
            each.expire()
        self._sweeping = self._loop.call_later(self.idle_timeout / _SWEEP, self._sweep)
