"""The number of connections within the limit of open descriptors, and the handling of its exhaustion."""

import errno
import os
import resource
from collections.abc import Callable

from discovery_tcpproxy.worker.loop import Loop, Timer

EXHAUSTED = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))
"""Errors that say that there is no descriptor, or no memory for one, for the moment."""
_EACH = 2
"""Descriptors of a connection: so many are needed for one that is accepted, or it would wait for the second."""
_RESERVE = 300
"""Left for listening sockets, those in a frame, and what the interpreter opens; less where there are few in all."""
_AGAIN = 0.1


class Descriptors:
    """Counts connections against RLIMIT_NOFILE. While there is no room nothing is accepted, and clients queue."""

    def __init__(self, loop: Loop, paused: Callable[[], None], resumed: Callable[[], None]) -> None:
        """Raise the limit as far as is permitted. `paused` and `resumed`: accept nothing, accept again."""
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        limit = os.sysconf("SC_OPEN_MAX") if hard == resource.RLIM_INFINITY else hard
        self.room = max(1, (limit - min(_RESERVE, limit // 4)) // _EACH)
        self.taken = 0
        self._loop = loop
        self._paused = paused
        self._resumed = resumed
        self._timer: Timer | None = None
        self.paused = False

    def full(self) -> bool:
        """Whether there is no room for another connection; if so, nothing is accepted until there is."""
        if self.taken < self.room:
            return False
        self._pause()
        return True

    def exhausted(self) -> None:
        """The kernel has none, although we have not had our share: try again soon."""
        self._pause()
        if self._timer is None:
            self._timer = self._loop.call_later(_AGAIN, self._again)

    def freed(self) -> None:
        """A connection's descriptors have been closed."""
        self.taken -= 1
        if self.paused and self._timer is None:
            self._timer = self._loop.call_later(0, self._again)

    def _pause(self) -> None:
        if not self.paused:
            self.paused = True
            self._paused()

    def _again(self) -> None:
        self._timer = None
        if self.paused and self.taken < self.room:
            self.paused = False
            self._resumed()
