"""Listening sockets: opened once, inherited, handed over, closed. Workers share them; nothing is bound twice."""

import errno
import os
import socket
import stat
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from discovery import DiscoveryError
from discovery.toolkit import format_holders, processes_with_sockets, tcp_sockets_listening_at, unix_sockets_at
from discovery_tcpproxy.config import UNIX

BACKLOG = 4096
"""Connections that may wait to be accepted; the kernel takes no more than net.core.somaxconn."""

_LOST = -1
"""In place of the inode of a file that has gone."""


class CannotListenError(DiscoveryError):
    """An address cannot be listened on; trying again may help."""


@dataclass(frozen=True, slots=True)
class Listening:
    """A listening socket; `inode` is that of a Unix socket's file, by which we know that the file is still ours."""

    bind: str
    sock: socket.socket
    inode: int = 0
    inherited: bool = False

    def close(self, *, for_good: bool = True) -> None:
        """Stop listening here; a Unix socket's file goes, if it is still this one's and this is `for_good`."""
        self.sock.close()
        if for_good and self.is_there():
            with suppress(OSError):
                _path(self.bind).unlink()

    def is_there(self) -> bool:
        """Whether it is a Unix socket whose file is where it was made."""
        return self.inode != 0 and _inode(_path(self.bind)) == self.inode

    def is_lost(self) -> bool:
        """Whether it is a Unix socket whose file has been removed, so that no client can connect."""
        return self.inode != 0 and _inode(_path(self.bind)) == 0


def open_listener(name: str, bind: str, mode: int) -> Listening:
    """Listen on `bind` for the listener called `name`. Raises CannotListenError: a line with the way out."""
    try:
        return _open_unix(bind, mode) if bind.startswith(UNIX) else _open_tcp(bind)
    except OSError as error:
        raise CannotListenError(
            f"listener {name} cannot listen on {bind.removeprefix(UNIX)}: {_reason(bind, error)}"
        ) from None


def fault(name: str, bind: str, made: Collection[Path]) -> str | None:
    """Why `open_listener` will fail, if a Unix socket's path tells; nothing is tried. `made`: directories to come."""
    path = _path(bind)
    if not bind.startswith(UNIX) or path.parent in made or (path.parent.is_dir() and not _is_obstacle(path)):
        return None
    error = OSError(errno.EADDRINUSE if path.parent.is_dir() else errno.ENOENT, "")
    return f"listener {name} cannot listen on {path}: {_unix_reason(path, error)}"


def take(inherited: Iterable[socket.socket], bind: str, mode: int | None) -> Listening | None:
    """The socket among `inherited` that listens on `bind`, taken out of it; None if there is none."""
    for candidate in inherited:
        if address_of(candidate) != bind:
            continue
        # Detached, so that closing the sockets that were not taken does not close this one.
        return adopted(bind, socket.socket(fileno=candidate.detach()), mode)
    return None


def adopted(bind: str, sock: socket.socket, mode: int | None = None) -> Listening:
    """A socket that another process has opened to listen on `bind`, taken over; a Unix socket's file has this mode."""
    _prepare(sock)
    inode = (_inode(_path(bind)) or _LOST) if bind.startswith(UNIX) else 0
    listening = Listening(bind, sock, inode, inherited=True)
    if mode is not None:
        with suppress(OSError):
            set_mode(listening, mode)
    return listening


def address_of(listening: socket.socket) -> str | None:
    """Where a socket listens, in the form that the configuration has; None if it does not listen, or is no stream."""
    try:
        if not listening.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            return None
        if listening.type != socket.SOCK_STREAM:
            return None
        name = listening.getsockname()
    except OSError:  # it was taken by another, and is closed
        return None
    if listening.family == socket.AF_UNIX:
        return UNIX + name if isinstance(name, str) and name else None
    if listening.family == socket.AF_INET6:
        return f"[{name[0]}]:{name[1]}"
    return f"{name[0]}:{name[1]}" if listening.family == socket.AF_INET else None


def set_mode(listening: Listening, mode: int) -> None:
    """Give a Unix socket's file another mode. Raises OSError."""
    if listening.is_there():
        _path(listening.bind).chmod(mode)


def _open_tcp(bind: str) -> Listening:
    host, _, port = bind.rpartition(":")
    family = socket.AF_INET6 if host.startswith("[") else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        # Lets a restart listen beside connections that end. No SO_REUSEPORT: others could listen beside us.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind((host.strip("[]"), int(port)))
        _prepare(listener)
    except OSError:
        listener.close()
        raise
    return Listening(bind, listener)


def _open_unix(bind: str, mode: int) -> Listening:
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
        path.chmod(mode)  # nobody can connect before it listens
        _prepare(listener)
    except OSError:
        listener.close()
        raise
    return Listening(bind, listener, inode)


def _prepare(listener: socket.socket) -> None:
    if listener.family != socket.AF_UNIX:
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # what is accepted inherits it
    listener.setblocking(False)
    listener.listen(BACKLOG)


def _is_obstacle(path: Path) -> bool:
    return path.exists() and not path.is_socket()


def _is_stale(path: Path) -> bool:
    """Whether it is the socket of a process that is dead."""
    if not stat.S_ISSOCK(path.lstat().st_mode):
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.setblocking(False)  # one whose queue is full lives
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


def _reason(bind: str, error: OSError) -> str:
    if bind.startswith(UNIX):
        return _unix_reason(_path(bind), error)
    host, _, port = bind.rpartition(":")
    if error.errno == errno.EADDRINUSE:
        who = processes_with_sockets(tcp_sockets_listening_at(host.strip("[]"), int(port), v6only=True))
        return f"address already in use{format_holders(who)}; stop that, or choose another"
    if error.errno in (errno.EACCES, errno.EPERM):
        return (
            "permission denied; ports below 1024 take CAP_NET_BIND_SERVICE"
            " (AmbientCapabilities= of a systemd unit, --cap-add of a container), or choose one from 1024 up"
        )
    if error.errno == errno.EADDRNOTAVAIL:
        every = "[::]" if host.startswith("[") else "0.0.0.0"  # noqa: S104 - it is advice
        return f"this machine does not have that address; choose one that it has, or {every}:{port} for every address"
    if error.errno == errno.EAFNOSUPPORT:
        return "this machine has no IPv6; choose an IPv4 address"
    return f"{error.strerror or error}"


def _unix_reason(path: Path, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        if not path.is_socket():
            return "there is a file that is no socket; remove it, or choose another path"
        who = processes_with_sockets(unix_sockets_at(str(path)))
        return f"socket already in use{format_holders(who)}; stop that, or choose another path"
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return f"there is no directory {path.parent}; make it, or choose another path"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{os.strerror(error.errno).lower()}; {path.parent} has to be a directory that can be written to"
    return f"{error.strerror or error}"
