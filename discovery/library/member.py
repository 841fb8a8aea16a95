"""A process of the application at the keeper of its registration: starts the keeper, and joins again if it dies."""

import atexit
import json
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from discovery.errors import DiscoveryError, OwnedByAnotherError, RegistryError, RegistryUnavailableError
from discovery.library.background import Background
from discovery.library.logs import to_logging
from discovery.library.process import error_of, start_helper
from discovery.system.backoff import delays
from discovery.system.unixsocket import with_short_path

_FIRST_DELAY, _MOST_DELAY = 0.02, 5.0
"""Seconds until another attempt to reach a keeper; they double. A keeper that begins or ends takes milliseconds."""
_CHILD_SECONDS = 0.5
"""Seconds in which a helper ends that nobody needs any more; where another process needs it, it stays."""
_LEAVE_SECONDS = 8.0
"""Seconds for the withdrawal: longer than the keeper takes at most."""
_MOST_BYTES = 1 << 16
"""Bytes of a packet."""


class Member(Background):
    """Has a backend registered while this process lives, and its forked children. From any thread."""

    def __init__(self, request: Mapping[str, Any], path: Path) -> None:
        """Prepare; `start` begins. `request` goes to the keeper, which listens at `path`."""
        super().__init__()
        self._request = dict(request)
        self._path = path
        self._channel: socket.socket | None = None
        self._inherited: socket.socket | None = None
        self._children: list[subprocess.Popen[bytes]] = []
        self._listeners: list[Callable[[], None]] = []
        self._is_leaving = False
        self._is_news = False
        self._is_registered = False
        self._problem: DiscoveryError | None = None
        self._check = ""

    @property
    def is_registered(self) -> bool:
        """True if the record is in the registry."""
        return self._is_registered

    @property
    def problem(self) -> DiscoveryError | None:
        """The reason why the record is not in the registry, None if there is none or none is known."""
        return self._problem

    @property
    def check(self) -> str:
        """The detail of the last outcome of the check."""
        return self._check

    def start(self) -> None:
        """Begin, on a thread. The end of the interpreter ends the registration."""
        atexit.register(self.close)
        self._start_thread()

    def close(self) -> None:
        """Leave; the last process that leaves waits until the backend is withdrawn. Idempotent."""
        if self._is_leaving:
            return
        with self._changed:
            self._is_leaving = True
            self._changed.notify_all()
        atexit.unregister(self.close)
        self._call()
        self._join(2 * _LEAVE_SECONDS)
        self._retire()
        self._drop()
        for child in self._children:
            with suppress(subprocess.TimeoutExpired):
                child.wait(_CHILD_SECONDS)
        self._is_registered = False

    def change(self, request: Mapping[str, Any]) -> None:
        """Have the keeper register what `request` has from now on, under the same key."""
        with self._changed:
            self._request = dict(request)
            self._is_news = True
        self._call()

    def listen(self, listener: Callable[[], None]) -> None:
        """Have `listener` called, on the thread, after each change of the status."""
        self._listeners.append(listener)

    def wait(self, timeout: float) -> bool:
        """Wait until the backend is registered, for at most `timeout` seconds. Return True if so.

        Raises as `raise_if_refused` does.
        """
        until = time.monotonic() + timeout
        with self._changed:
            while not self._is_registered and not self._is_leaving:
                self.raise_if_refused()
                if (left := until - time.monotonic()) <= 0:
                    break
                self._changed.wait(left)
            return self._is_registered

    def raise_if_refused(self) -> None:
        """Raise the problem unless time alone may mend the problem."""
        problem = self._problem
        if problem is None or isinstance(problem, _HelperLostError | RegistryUnavailableError):
            return
        if not (type(problem) is OwnedByAnotherError and self._request["takeover"]):  # else the owner may answer yet
            raise problem

    def _work(self) -> None:
        retries = delays(_FIRST_DELAY, _MOST_DELAY)
        while not self._is_paused:
            if self._is_leaving:
                self._leave()
                return
            if self._channel is None:
                self._children = [child for child in self._children if child.poll() is None]
                try:
                    self._join_keeper()
                except OSError as error:
                    self._lose(_HelperLostError(f"no helper process can be reached: {error.strerror or error}"))
                    self._wait(timeout=next(retries))
                continue
            channel = self._channel
            if self._is_news:
                self._is_news = False
                self._send(channel, self._request)
            if channel.fileno() not in self._wait(channel.fileno()):
                continue
            message = _receive(channel)
            if message is not None and (line := message.get("log")) is not None:
                to_logging(*line)
            elif message is not None and (status := message.get("status")) is not None:
                retries = delays(_FIRST_DELAY, _MOST_DELAY)
                self._take(status)
            else:
                self._drop()
                if message is None:
                    self._lose(_HelperLostError("the helper process has ended; another is started"))
                elif "error" in message:
                    self._lose(error_of(message["error"]))
                self._wait(timeout=next(retries))

    def _join_keeper(self) -> None:
        """Connect to the keeper, or start a keeper. Raises OSError."""
        channel = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with_short_path(self._path, channel.connect)
        except (FileNotFoundError, ConnectionRefusedError):
            channel.close()
            channel, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with other:
                self._children.append(start_helper("keep", stdin=other.fileno()))
        except BaseException:  # also a KeyboardInterrupt: no descriptor is left open
            channel.close()
            raise
        self._channel = channel
        self._is_news = False
        self._send(channel, self._request)

    @staticmethod
    def _send(channel: socket.socket, message: Mapping[str, Any]) -> None:
        with suppress(OSError):  # the keeper has ended, which reading notices
            channel.send(json.dumps(message).encode(), socket.MSG_NOSIGNAL)

    def _take(self, status: Mapping[str, Any]) -> None:
        with self._changed:
            self._is_registered = status["registered"]
            self._problem = None if status["problem"] is None else error_of(status["problem"])
            self._check = status["check"]
        self._tell()
        inherited, self._inherited = self._inherited, None
        if inherited is not None:  # this process counts by itself from now on
            inherited.close()

    def _lose(self, problem: DiscoveryError) -> None:
        with self._changed:
            self._is_registered = False
            is_new = str(problem) != str(self._problem)
            self._problem = problem
        if is_new:
            to_logging(30, str(problem))
        self._tell()

    def _tell(self) -> None:
        with self._changed:
            self._changed.notify_all()
        for listener in self._listeners:
            with suppress(RuntimeError):  # its event loop has been closed
                listener()

    def _leave(self) -> None:
        if self._channel is None:
            return
        self._send(self._channel, {"leave": True})
        until = time.monotonic() + _LEAVE_SECONDS
        while (left := until - time.monotonic()) > 0:
            if self._channel.fileno() in self._wait(self._channel.fileno(), timeout=left):
                message = _receive(self._channel)
                if message is None or "left" in message:
                    return

    def _drop(self) -> None:
        for channel in (self._channel, self._inherited):
            if channel is not None:
                channel.close()
        self._channel = self._inherited = None

    def _begin_anew(self) -> None:
        # The connection counts while any process has it open: it stays until this process has one of its own.
        self._inherited, self._channel = self._channel or self._inherited, None
        for child in self._children:
            child.returncode = 0  # no child of this process
        self._children = []
        self._listeners = []
        if not self._is_leaving:
            self._start_thread()


class _HelperLostError(RegistryError):
    """The helper process is not there now. Another is started."""


def _receive(channel: socket.socket) -> dict[str, Any] | None:
    """Return the next packet, None at the end."""
    try:
        data = channel.recv(_MOST_BYTES)
    except OSError:
        return None
    return dict(json.loads(data)) if data else None
