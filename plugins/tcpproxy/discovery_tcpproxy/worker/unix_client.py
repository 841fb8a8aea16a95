"""Clients that are connected by a Unix socket."""

import select

from discovery_tcpproxy.worker.stream import End

_IN = select.EPOLLIN
MORE = select.EPOLLPRI
"""Event bit that tells an `End` to read again after a short read."""


class UnixClient:
    """Handler that lets the `End` of a Unix socket read until nothing is left.

    A read ends after bytes that carry descriptors (SCM_RIGHTS), so that a short read does not prove that the socket is
    drained. The descriptors themselves are not forwarded.
    """

    __slots__ = ("_end",)

    def __init__(self, end: End) -> None:
        """Pass the events to `end`."""
        self._end = end

    def event(self, events: int) -> None:
        """See `Handler`."""
        self._end.event(events | MORE if events & _IN else events)

    def failed(self, error: Exception) -> None:
        """See `Handler`."""
        self._end.failed(error)
