"""A claim to a path that stands although the file there is removed: an abstract Unix socket (unix(7)) named after it.

Only processes of one root directory, mount namespace and network namespace see each other's, so a lock on a file has to
stand beside it.
"""

import errno
import hashlib
import os
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import Self

from discovery.system.unixsocket import peer_credentials

_AGAIN_SECONDS = 0.001
"""Seconds until a path is claimed again whose claimant ends at this moment."""
_MOST_ASKING = 4096
"""Processes that can ask before the holder answers, which a plugin that hangs does not. The kernel may allow fewer."""
_ATTEMPTS = 100
"""Attempts, a millisecond apart, while the process that has the name is just ending, or beginning."""


class PathClaimedError(Exception):
    """Another process of this user has claimed the path; `pid` is 0 if it cannot be seen from here."""

    def __init__(self, pid: int) -> None:
        """See the class."""
        super().__init__(f"process {pid}")
        self.pid = pid


class PathClaim:
    """A claim, held until `close`, or until the process ends in any way."""

    def __init__(self, sock: socket.socket) -> None:
        """Store a socket that listens. Only `claim` creates objects of this class."""
        self._sock = sock

    def answer(self) -> None:
        """Disconnect the processes that have asked for the holder: only so many can ask until this is called."""
        with suppress(OSError):
            for _ in range(_MOST_ASKING):  # and no more, though others may ask as fast as they are let go
                self._sock.accept()[0].close()

    def close(self) -> None:
        """Let go. Idempotent."""
        self._sock.close()

    def __enter__(self) -> Self:
        """Return the claim, which the end of the block closes."""
        return self

    def __exit__(self, *_: object) -> None:
        """Let go."""
        self.close()


def claim(path: Path) -> PathClaim | None:
    """Claim `path`. Raises PathClaimedError.

    None if that cannot be had: without /proc, or where a process of another user, who may mean harm, has the name.
    """
    with suppress(OSError):
        name = _name(path)
        for _ in range(_ATTEMPTS):
            if (claimed := _bound(name)) is not None:
                return claimed
            try:
                pid = _claimant(name)
            except ConnectionRefusedError:
                time.sleep(_AGAIN_SECONDS)
                continue
            if pid is not None:
                raise PathClaimedError(pid)
            break
    return None


def _bound(name: bytes) -> PathClaim | None:
    """A socket that has the name; None if another has it. Raises OSError."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        sock.bind(name)
        sock.listen(_MOST_ASKING)
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRINUSE:
            return None
        raise
    return PathClaim(sock)


def _name(path: Path) -> bytes:
    # The same path in another namespace, or below another root (chroot), is another file.
    namespace, root = Path("/proc/self/ns/mnt").stat().st_ino, Path("/").stat()
    place = f"{namespace} {root.st_dev} {root.st_ino} {os.path.realpath(path.parent)}/{path.name}"
    text = f"{os.geteuid()} {place}"
    return b"\0discovery/" + hashlib.sha256(os.fsencode(text)).hexdigest().encode()


def _claimant(name: bytes) -> int | None:
    """Return the id of the process that has the name, None for another user's. Raises OSError."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as asking:
        asking.connect(name)
        other = peer_credentials(asking)
    return other.pid if other.uid == os.geteuid() else None
