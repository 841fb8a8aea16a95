"""Unix sockets: the length of a path, addresses for longer paths, and the process at the other end."""

import os
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

SOCKET_PATH_BYTES: Final = 107
"""Bytes of a path in the address of a Unix socket: `sun_path` of unix(7) without its final zero."""
_CREDENTIALS = struct.Struct("iII")
"""`struct ucred` of unix(7): process id, user id, group id."""


class PeerCredentials(NamedTuple):
    """The process at the other end of a Unix socket, as of its `connect` or `listen`.

    `pid` is the process id, 0 if the process is in another pid namespace. `uid` and `gid` are user id and group id.
    """

    pid: int
    uid: int
    gid: int


def peer_credentials(sock: socket.socket) -> PeerCredentials:
    """Return the process at the other end of the connected Unix socket `sock`. Raises OSError. From any thread."""
    return PeerCredentials._make(
        _CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    )


def is_too_long_for_a_socket(path: Path, suffix: int = 0) -> bool:
    """Return True if a Unix socket cannot have the path `path`.

    `suffix` is the number of bytes that a program appends to the path for a while, as HAProxy does.
    """
    return len(os.fsencode(path)) + suffix > SOCKET_PATH_BYTES


def with_short_path(path: Path, use: Callable[[str], None]) -> None:
    """Call `use`, a socket's `bind` or `connect`, with a short address of `path`, which may be of any length.

    The address leads through a descriptor of the directory, and is valid during the call alone. Raises OSError if the
    directory cannot be opened, and what `use` raises. From any thread.
    """
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        use(f"/proc/self/fd/{directory}/{path.name}")
    finally:
        os.close(directory)
