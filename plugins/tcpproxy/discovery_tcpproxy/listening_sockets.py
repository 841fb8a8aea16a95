"""Listening sockets of the daemon, which are opened once and shared by all workers: opened, inherited, closed."""

import errno
import socket
import stat
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from discovery import DiscoveryError, join_host_port, split_host_port
from discovery.toolkit import listen_error_reason
from discovery_tcpproxy.config import UNIX

BACKLOG = 4096
"""Connections that may wait to be accepted; the limit of the kernel is net.core.somaxconn, 4096 by default."""

_NO_INODE = -1
"""In place of the inode number of a file that does not exist."""


class CannotListenError(DiscoveryError):
    """Failure to listen on an address; a later attempt may succeed."""


@dataclass(frozen=True, slots=True)
class ListeningSocket:
    """A listening socket of the daemon.

    `inode` identifies the file of a Unix socket, and is 0 for other sockets. `inherited` is True for a socket that
    another process opened.
    """

    bind: str
    sock: socket.socket
    inode: int = 0
    inherited: bool = False

    def close(self, *, for_good: bool = True) -> None:
        """Close the socket; with `for_good` its own file is removed if the socket is a Unix socket."""
        self.sock.close()
        if for_good and self.has_file():
            with suppress(OSError):
                _path(self.bind).unlink()

    def has_file(self) -> bool:
        """Return True for a Unix socket whose file exists."""
        return self.inode != 0 and _inode(_path(self.bind)) == self.inode

    def is_lost(self) -> bool:
        """Return True for a Unix socket whose file has been removed, so that no client can connect."""
        return self.inode != 0 and _inode(_path(self.bind)) == 0


def open_listening_socket(name: str, bind: str, mode: int) -> ListeningSocket:
    """Listen on `bind` for the listener `name`. Raises CannotListenError, whose message suggests a remedy."""
    try:
        return _open_unix(bind, mode) if bind.startswith(UNIX) else _open_tcp(bind)
    except OSError as error:
        address = bind.removeprefix(UNIX)
        reason = listen_error_reason(address, error)
        raise CannotListenError(f"listener {name} cannot listen on {address}: {reason}") from None


def path_problem(name: str, bind: str, future_directories: Collection[Path]) -> str | None:
    """Return why a Unix socket cannot be created, judged by its path alone; None if nothing is wrong.

    `future_directories` do not have to exist yet.
    """
    path = _path(bind)
    if (
        not bind.startswith(UNIX)
        or path.parent in future_directories
        or (path.parent.is_dir() and not _is_obstacle(path))
    ):
        return None
    error = OSError(errno.EADDRINUSE if path.parent.is_dir() else errno.ENOENT, "")
    return f"listener {name} cannot listen on {path}: {listen_error_reason(str(path), error)}"


def take_inherited(inherited: Iterable[socket.socket], bind: str, mode: int | None) -> ListeningSocket | None:
    """Take the socket that listens on `bind` out of `inherited`; None if there is none."""
    for candidate in inherited:
        if address_of(candidate) != bind:
            continue
        # Detached: the sockets in `inherited` are closed later.
        return from_other_process(bind, socket.socket(fileno=candidate.detach()), mode)
    return None


def from_other_process(bind: str, sock: socket.socket, mode: int | None = None) -> ListeningSocket:
    """Wrap a socket that another process has opened on `bind`; `mode` is set on the file of a Unix socket."""
    _prepare(sock)
    inode = (_inode(_path(bind)) or _NO_INODE) if bind.startswith(UNIX) else 0
    taken = ListeningSocket(bind, sock, inode, inherited=True)
    if mode is not None:
        with suppress(OSError):
            set_mode(taken, mode)
    return taken


def address_of(sock: socket.socket) -> str | None:
    """Return the address of a listening stream socket, in the form of the configuration; None for other sockets."""
    try:
        if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            return None
        if sock.type != socket.SOCK_STREAM:
            return None
        name = sock.getsockname()
    except OSError:  # the socket has been detached by another listener
        return None
    if sock.family == socket.AF_UNIX:
        return UNIX + name if isinstance(name, str) and name else None
    return join_host_port(name[0], name[1]) if sock.family in (socket.AF_INET, socket.AF_INET6) else None


def set_mode(sock: ListeningSocket, mode: int) -> None:
    """Set the file mode of a Unix socket. Raises OSError."""
    if sock.has_file():
        _path(sock.bind).chmod(mode)


def _open_tcp(bind: str) -> ListeningSocket:
    host, port = split_host_port(bind)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        # SO_REUSEADDR allows a restart while old connections end. SO_REUSEPORT would let other programs listen as well.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind((host, port))
        _prepare(listener)
    except OSError:
        listener.close()
        raise
    return ListeningSocket(bind, listener)


def _open_unix(bind: str, mode: int) -> ListeningSocket:
    path = _path(bind)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        try:
            listener.bind(str(path))
        except OSError as error:
            if error.errno != errno.EADDRINUSE or not _is_stale(path):
                raise
            path.unlink()
            listener.bind(str(path))
        inode = _inode(path)
        path.chmod(mode)  # clients can connect only after `listen`
        _prepare(listener)
    except OSError:
        listener.close()
        raise
    return ListeningSocket(bind, listener, inode)


def _prepare(listener: socket.socket) -> None:
    if listener.family != socket.AF_UNIX:
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # inherited by accepted sockets
    listener.setblocking(False)
    listener.listen(BACKLOG)


def _is_obstacle(path: Path) -> bool:
    return path.exists() and not path.is_socket()


def _is_stale(path: Path) -> bool:
    """Return True if the file is the socket of a process that has ended."""
    if not stat.S_ISSOCK(path.lstat().st_mode):
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.setblocking(False)  # a full queue belongs to a living process
        try:
            client.connect(str(path))
        except ConnectionRefusedError:
            return True
        except OSError:
            return False
    return False


def _inode(path: Path) -> int:
    try:
        return path.lstat().st_ino
    except OSError:
        return 0


def _path(bind: str) -> Path:
    return Path(bind.removeprefix(UNIX))
