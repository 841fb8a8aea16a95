"""A claim to a path that stands although the file there is removed: an abstract Unix socket (unix(7)) named after it.

Only processes of one root directory, mount namespace and network namespace see each other's, so a lock on a file has to
stand beside it.
"""

import errno
import hashlib
import os
import socket
import struct
from contextlib import suppress
from pathlib import Path
from typing import Self

_CREDENTIALS = struct.Struct("iII")  # struct ucred of unix(7): pid, uid, gid
_MOST_ASKING = 128


class TakenError(Exception):
    """Another process of this user has claimed the path; `pid` is 0 if it cannot be seen from here."""

    def __init__(self, pid: int) -> None:
        """See the class."""
        super().__init__(f"process {pid}")
        self.pid = pid


class Claim:
    """Holds the claim until it is closed, or until the process ends, however it ends."""

    def __init__(self, sock: socket.socket) -> None:
        """Take over a socket that listens; `claim` makes these."""
        self._sock = sock

    def answer(self) -> None:
        """Let go those who have asked whose it is: only so many can ask until this is called."""
        with suppress(OSError):
            for _ in range(_MOST_ASKING):  # and no more, though others may ask as fast as they are let go
                self._sock.accept()[0].close()

    def close(self) -> None:
        """Let go. Idempotent."""
        self._sock.close()

    def __enter__(self) -> Self:
        """Hold it for a block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Let go."""
        self.close()


def claim(path: Path) -> Claim | None:
    """Claim `path`. Raises TakenError.

    None if that cannot be had: without /proc, or where a process of another user, who may mean harm, has the name.
    """
    try:
        name = _name(path)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    except OSError:
        return None
    try:
        sock.bind(name)
        sock.listen(_MOST_ASKING)
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRINUSE and (pid := _claimant(name)) is not None:
            raise TakenError(pid) from None
        return None
    return Claim(sock)


def _name(path: Path) -> bytes:
    # The same path in another namespace, or below another root (chroot), is another file.
    namespace, root = Path("/proc/self/ns/mnt").stat().st_ino, Path("/").stat()
    place = f"{namespace} {root.st_dev} {root.st_ino} {os.path.realpath(path.parent)}/{path.name}"
    text = f"{os.geteuid()} {place}"
    return b"\0discovery/" + hashlib.sha256(os.fsencode(text)).hexdigest().encode()


def _claimant(name: bytes) -> int | None:
    """The process that has the name, if it is this user's."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as asking:
        try:
            asking.connect(name)
            credentials = asking.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        except OSError:  # it has just ended
            return None
    pid, uid, _ = _CREDENTIALS.unpack(credentials)
    return int(pid) if uid == os.geteuid() else None
