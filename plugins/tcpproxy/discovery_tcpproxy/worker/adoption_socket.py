"""Unix socket in the run directory at which the next daemon adopts a worker whose daemon has died."""

import os
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from discovery_tcpproxy.worker.loop import Loop

_CHECK_INTERVAL = 5.0
"""Seconds between two checks that the file exists: programs that clean directories remove old files."""
_BACKLOG = 8
"""Connections that may wait: one daemon connects at a time."""
_MODE = 0o600
"""File mode of the socket: only processes of this user may connect."""
_CREDENTIALS = struct.Struct("iII")  # struct ucred of unix(7): pid, uid, gid
_IN = 1  # EPOLLIN


class AdoptionSocket:
    """The socket `worker-PID.sock` in a directory, for processes of the same user."""

    def __init__(self, directory: Path, loop: Loop, on_connect: Callable[[socket.socket], None]) -> None:
        """Prepare; `open` creates the socket. `on_connect` is called with each connection."""
        self.path = socket_path(directory, os.getpid())
        self._loop = loop
        self._on_connect = on_connect
        self._socket: socket.socket | None = None
        self._file: tuple[int, int] | None = None

    def open(self) -> None:
        """Listen, and check from now on that the file exists."""
        self.restore()
        self._loop.call_later(_CHECK_INTERVAL, self.open)

    def restore(self) -> None:
        """Create the socket again if its file has been removed. The next check repeats a failed attempt."""
        if self._file is not None and _identity(self.path) == self._file:
            return
        with suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._listen()

    def close(self) -> None:
        """Close the socket and remove its file, so that no daemon finds the worker."""
        if self._socket is not None:
            self._loop.remove(self._socket.fileno())
            self._socket.close()
            self._socket = None
        if self._file is not None and _identity(self.path) == self._file:
            with suppress(OSError):
                self.path.unlink()
        self._file = None

    def event(self, events: int) -> None:
        """Accept a connection from a process of the same user. See `Handler`."""
        if self._socket is None:
            return
        with suppress(OSError):  # no free descriptor, or a daemon that has left: daemons try again
            channel, _ = self._socket.accept()
            credentials = channel.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
            if _CREDENTIALS.unpack(credentials)[1] == os.geteuid():
                self._on_connect(channel)
            else:
                channel.close()

    def failed(self, error: Exception) -> None:
        """Ignore the error: a daemon that cannot connect tries again. See `Handler`."""

    def _listen(self) -> None:
        """Bind and listen. Raises OSError."""
        self.close()
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        # By a descriptor of the directory, since the path may be longer than the 107 bytes of a socket address.
        directory = os.open(self.path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            sock.setblocking(False)
            os.fchmod(sock.fileno(), _MODE)  # bind creates the file with this mode
            with suppress(FileNotFoundError):
                self.path.unlink()  # of an earlier process with the same process id
            sock.bind(f"/proc/self/fd/{directory}/{self.path.name}")
            sock.listen(_BACKLOG)
            self._loop.add(sock.fileno(), self, _IN)
        except OSError:
            sock.close()
            raise
        finally:
            os.close(directory)
        self._socket, self._file = sock, _identity(self.path)


def socket_path(directory: Path, pid: int) -> Path:
    """Return the path of the adoption socket of the worker with this process id."""
    return directory / f"worker-{pid}.sock"


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.lstat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
