"""Clients that come through a Unix socket."""

import select

from discovery_tcpproxy.worker.stream import End

_IN = select.EPOLLIN
MORE = select.EPOLLPRI
"""By which an end knows that a short read has not drained its socket."""


class LocalClient:
    """Hands events on to the client's end, so that it reads until there is nothing.

    A read stops behind descriptors that ride along, which are not passed on: a short one has not drained the socket.
    """

    __slots__ = ("_end",)

    def __init__(self, end: End) -> None:
        """Watch for `end`."""
        self._end = end

    def event(self, events: int) -> None:
        """See `Handler`."""
        self._end.event(events | MORE if events & _IN else events)

    def failed(self, error: Exception) -> None:
        """See `Handler`."""
        self._end.failed(error)
