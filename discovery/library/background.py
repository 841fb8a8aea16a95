"""Threads that are safe with forks: paused before a fork, resumed in the parent, restarted in the child on demand."""

import os
import select
import socket
import threading
import weakref
from abc import ABC, abstractmethod
from contextlib import suppress

_PAUSE_SECONDS = 2.0
"""Seconds that a fork waits for a thread to pause. The thread only waits for descriptors and starts a process."""


class Background(ABC):
    """Work on a daemon thread, which waits for descriptors.

    A fork keeps the thread that forks alone, and every lock as it is. So before a fork the threads of this class end
    and their locks are taken; afterwards the parent goes on, and the child calls `_begin_anew`.
    """

    def __init__(self) -> None:
        """Start nothing yet."""
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._called, self._caller = _bell()
        self._is_paused = False

    @abstractmethod
    def _work(self) -> None:
        """Do the work on the thread. Return soon after `_wait` or `_is_paused` asks for the end."""

    @abstractmethod
    def _begin_anew(self) -> None:
        """Forget, in a forked child, what belongs to the parent; then or later start a thread of the child's own."""

    def _start_thread(self) -> None:
        """Start the thread, which forks respect from now on."""
        key = id(self)
        _backgrounds[key] = weakref.ref(self, lambda _: _forget(key))
        self._is_paused = False
        self._thread = threading.Thread(target=self._work, name="discovery-library", daemon=True)
        self._thread.start()

    def _call(self) -> None:
        """Have `_wait` return. From any thread."""
        with suppress(BlockingIOError, OSError):
            self._caller.send(b".")

    def _wait(self, *descriptors: int, timeout: float | None = None) -> list[int]:
        """Return the descriptors that can be read, within `timeout` seconds; none after `_call`."""
        poll = select.poll()
        for descriptor in (self._called.fileno(), *descriptors):
            poll.register(descriptor, select.POLLIN)
        ready = [descriptor for descriptor, _ in poll.poll(None if timeout is None else timeout * 1000)]
        if self._called.fileno() in ready:
            with suppress(BlockingIOError):
                self._called.recv(4096)
            return []
        return ready

    def _join(self, timeout: float) -> bool:
        """Wait until the thread has ended, for at most `timeout` seconds. Return True if so."""
        thread = self._thread
        if thread is None:
            return True
        if thread.ident is None or thread is threading.current_thread():
            return False  # it is about to begin on another thread, or waits for itself
        thread.join(timeout)
        return not thread.is_alive()

    def pause(self) -> None:
        """End the thread and take its lock, before a fork."""
        self._is_paused = True
        self._call()
        self._join(_PAUSE_SECONDS)
        self._changed.acquire()

    def go_on(self) -> None:
        """Release the lock and start the thread again, in the parent."""
        self._changed.release()
        self._is_paused = False
        if self._join(0):  # else it was too busy to end, and goes on
            self._start_thread()

    def go_on_in_child(self) -> None:
        """Replace the lock, which the fork may have copied while held, and drop the thread, which the child lacks."""
        self._changed = threading.Condition()
        self._called.close()
        self._caller.close()
        self._called, self._caller = _bell()
        self._thread = None
        self._begin_anew()

    def _retire(self) -> None:
        """Leave forks alone again, once the work is done."""
        _forget(id(self))
        self._thread = None


def _bell() -> tuple[socket.socket, socket.socket]:
    called, caller = socket.socketpair()
    called.setblocking(False)
    caller.setblocking(False)
    return called, caller


_backgrounds: "dict[int, weakref.ref[Background]]" = {}
"""The objects whose threads run, by id. The values of a dict are listed in one step, whatever other threads do."""
_paused: list[Background] = []
_forking = threading.Lock()
"""Held across a fork: two threads that fork at once must not resume what the other has paused."""


def _forget(key: int) -> None:
    _backgrounds.pop(key, None)


def _before_fork() -> None:
    _forking.acquire()
    for reference in list(_backgrounds.values()):
        if (each := reference()) is not None:
            each.pause()
            _paused.append(each)


def _after_fork_in_parent() -> None:
    try:
        while _paused:
            _paused.pop().go_on()
    finally:
        _forking.release()


def _after_fork_in_child() -> None:
    try:
        while _paused:
            _paused.pop().go_on_in_child()
    finally:
        _forking.release()  # this thread, which is the child's only one, has taken the lock


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
