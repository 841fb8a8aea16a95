"""A connection to the worker that serves, opened in advance, so that a change sends its commands at once.

A connection keeps an old worker alive. So the connection is closed before a reload, and replaced whenever the worker is
asked for its pid: every second, which is soon enough after a reload by another program.
"""

from collections.abc import Awaitable, Callable

from discovery_haproxy.runtime_api.connection import Connection, Worker


class StandingConnection:
    """Keeps a connection whose worker is known. Belongs to one event loop."""

    def __init__(self, open_connection: Callable[[], Awaitable[Connection]]) -> None:
        """Store the argument, which opens a connection to the worker that serves. Nothing is opened."""
        self._open = open_connection
        self._kept: Connection | None = None

    def keep(self, connection: Connection) -> None:
        """Keep this connection in place of any other connection, which is closed. The owner closes it no more."""
        self.close()
        self._kept = connection

    def close(self) -> None:
        """Close the connection that is kept, if any."""
        kept, self._kept = self._kept, None
        if kept is not None:
            kept.close()

    def to(self, worker: Worker) -> "Loan":
        """Lend the connection of `worker`, or else a new connection, which any worker may answer.

        The connection is kept afterwards, or closed after an exception. Entering raises RuntimeApiError.
        """
        kept, self._kept = self._kept, None
        if kept is not None and not (kept.answered_by == worker and kept.is_open):
            kept.close()
            kept = None
        return Loan(self, kept)

    async def open(self) -> Connection:
        """Open a connection, which the caller closes. Raises RuntimeApiError."""
        return await self._open()


class Loan:
    """A connection that is lent for a block: an asynchronous context manager, without the cost of a generator."""

    def __init__(self, standing: StandingConnection, connection: Connection | None) -> None:
        """Store the arguments. Without a connection one is opened."""
        self._standing = standing
        self._connection = connection

    async def __aenter__(self) -> Connection:
        """Return the connection."""
        if self._connection is None:
            self._connection = await self._standing.open()
        return self._connection

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Give the connection back; close the connection after an exception."""
        if self._connection is not None:
            (self._standing.keep if kind is None else Connection.close)(self._connection)
