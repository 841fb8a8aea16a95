"""Where the next daemon finds a worker whose own daemon has died: a Unix socket in the run directory."""

import os
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from discovery_tcpproxy.worker.loop import Loop

_LOOK_EVERY = 5.0
"""Seconds between two looks whether the file is still there: cleaners remove what is old."""
_CREDENTIALS = struct.Struct("iII")  # struct ucred of unix(7): pid, uid, gid
_IN = 1


class Door:
    """The socket `worker-PID.sock` in a directory, for processes of this user alone."""

    def __init__(self, directory: Path, loop: Loop, arrived: Callable[[socket.socket], None]) -> None:
        """Prepare; `open` begins. `arrived` is given each connection."""
        self.path = place(directory, os.getpid())
        self._loop = loop
        self._arrived = arrived
        self._listening: socket.socket | None = None
        self._file: tuple[int, int] | None = None

    def open(self) -> None:
        """Listen, and see to it from now on that the file is there."""
        self.look()
        self._loop.call_later(_LOOK_EVERY, self.open)

    def look(self) -> None:
        """Listen again if the file has gone, perhaps with its directory. A failure is tried again."""
        if self._file is not None and _identity(self.path) == self._file:
            return
        with suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._listen()

    def close(self) -> None:
        """Remove the socket, so that no daemon finds the worker."""
        if self._listening is not None:
            self._loop.remove(self._listening.fileno())
            self._listening.close()
            self._listening = None
        if self._file is not None and _identity(self.path) == self._file:
            with suppress(OSError):
                self.path.unlink()
        self._file = None

    def event(self, events: int) -> None:
        """Let somebody in who is the same user."""
        if self._listening is None:
            return
        with suppress(OSError):  # no descriptor is free, or who knocked is gone: it comes again
            channel, _ = self._listening.accept()
            credentials = channel.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
            if _CREDENTIALS.unpack(credentials)[1] == os.geteuid():
                self._arrived(channel)
            else:
                channel.close()

    def failed(self, error: Exception) -> None:
        """See `Handler`. The daemon that connects tries again."""

    def _listen(self) -> None:
        """Raises OSError."""
        self.close()
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        # Relative to the directory, as the path may be longer than the 107 bytes of an address.
        directory = os.open(self.path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            listening.setblocking(False)
            os.fchmod(listening.fileno(), 0o600)  # what bind makes has this mode, from the first moment on
            with suppress(FileNotFoundError):
                self.path.unlink()  # of one that had our number
            listening.bind(f"/proc/self/fd/{directory}/{self.path.name}")
            listening.listen(8)
            self._loop.add(listening.fileno(), self, _IN)
        except OSError:
            listening.close()
            raise
        finally:
            os.close(directory)
        self._listening, self._file = listening, _identity(self.path)


def place(directory: Path, pid: int) -> Path:
    """Where the socket of a worker is."""
    return directory / f"worker-{pid}.sock"


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.lstat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
