"""Why a socket cannot listen, in words, with what to do."""

import errno
import os
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Literal

from discovery.model import split_host_port
from discovery.system.listening import SocketTable, format_holders, processes_with_sockets, unix_sockets_at


def listen_error_reason(
    bind: str, error: OSError, *, protocol: Literal["tcp", "udp"] = "tcp", v6only: bool = True
) -> str:
    """Return why a socket cannot listen at `bind`, with a remedy: text for `cannot listen on BIND: REASON`.

    `bind` is `HOST:PORT`, `[IPV6]:PORT` or the path of a Unix socket, and `error` what the attempt raised. `protocol`
    is that of the socket, "tcp" or "udp". `v6only` says that the socket of an IPv6 address leaves IPv4 alone. For an
    address in use the reason names the processes, as far as this user may see them. May take tens of milliseconds.
    Raises nothing. From any thread.
    """
    if "/" in bind:
        return _path_reason(Path(bind), error)
    host, port = split_host_port(bind)
    if error.errno == errno.EADDRINUSE:
        who = _holders(lambda: SocketTable(protocol).sockets_at(host, port, v6only=v6only))
        return f"address already in use over {protocol.upper()}{who}; stop that process, or choose another address"
    if error.errno in (errno.EACCES, errno.EPERM):
        return (
            "permission denied; ports below 1024 require CAP_NET_BIND_SERVICE"
            " (AmbientCapabilities= of a systemd unit, --cap-add of a container), or choose one from 1024 up"
        )
    if error.errno == errno.EADDRNOTAVAIL:
        every = "[::]" if ":" in host else "0.0.0.0"  # noqa: S104 - a suggestion in a message
        return f"this machine does not have the address; choose an address of this machine, or {every}:{port} for all"
    if error.errno == errno.EAFNOSUPPORT:
        return "this machine has no IPv6; choose an IPv4 address"
    return f"{error.strerror or error}"


def _path_reason(path: Path, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        if not path.is_socket():
            return "there is a file that is no socket; remove the file, or choose another path"
        who = _holders(lambda: unix_sockets_at(str(path)))
        return f"socket already in use{who}; stop that process, or choose another path"
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return f"there is no directory {path.parent}; create it, or choose another path"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{os.strerror(error.errno).lower()}; the directory {path.parent} has to be writable"
    return f"{error.strerror or error}"


def _holders(find_sockets: Callable[[], Collection[str]]) -> str:
    """Return the processes that have the sockets, for an error message; empty if nobody can tell."""
    try:
        return format_holders(processes_with_sockets(find_sockets()))
    except (OSError, ValueError):  # no descriptor is free; a host name. The message is true without the processes
        return ""
