"""Limit of connections that follows from the limit of open descriptors (RLIMIT_NOFILE)."""

import errno
import os
import resource
from collections.abc import Callable

from discovery_tcpproxy.worker.loop import Loop, Timer

EXHAUSTED = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))
"""Errors of system calls for lack of a descriptor, or of memory for one."""
_PER_CONNECTION = 2
"""Descriptors of a connection: the sockets of the client and of the backend."""
_RESERVE = 300
"""Descriptors kept free for listening sockets, up to 250 of them in a frame, and for the interpreter."""
_RESERVE_DIVISOR = 4
"""A low limit keeps one descriptor in four free, if that is less than `_RESERVE`."""
_RETRY_DELAY = 0.1
"""Seconds until clients are accepted again after the kernel had no descriptor: other processes may free some."""


class Descriptors:
    """Count of connections against RLIMIT_NOFILE. At the limit no client is accepted; clients wait in the kernel."""

    def __init__(self, loop: Loop, on_pause: Callable[[], None], on_resume: Callable[[], None]) -> None:
        """Raise the soft limit to the hard limit. `on_pause` stops accepting, `on_resume` starts again."""
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        limit = os.sysconf("SC_OPEN_MAX") if hard == resource.RLIM_INFINITY else hard
        self.room = max(1, (limit - min(_RESERVE, limit // _RESERVE_DIVISOR)) // _PER_CONNECTION)
        self.taken = 0
        self._loop = loop
        self._on_pause = on_pause
        self._on_resume = on_resume
        self._timer: Timer | None = None
        self.paused = False

    def full(self) -> bool:
        """Return True if there is no room for another connection, and stop accepting until there is."""
        if self.taken < self.room:
            return False
        self._pause()
        return True

    def exhausted(self) -> None:
        """Stop accepting for a moment: the kernel refused a descriptor below the limit."""
        self._pause()
        if self._timer is None:
            self._timer = self._loop.call_later(_RETRY_DELAY, self._try_to_resume)

    def freed(self) -> None:
        """Stop counting a connection whose descriptors have been closed."""
        self.taken -= 1
        if self.paused and self._timer is None:
            self._timer = self._loop.call_later(0, self._try_to_resume)

    def _pause(self) -> None:
        if not self.paused:
            self.paused = True
            self._on_pause()

    def _try_to_resume(self) -> None:
        self._timer = None
        if self.paused and self.taken < self.room:
            self.paused = False
            self._on_resume()
