"""Whether addresses can be listened on. `haproxy -c` does not tell, and a reload that cannot bind pauses everything."""

import errno
import os
import socket
from collections.abc import Callable, Collection, Iterable
from pathlib import Path

from discovery import ApplyError
from discovery.toolkit import (
    SOCKET_PATH_BYTES,
    format_holders,
    is_too_long_for_a_socket,
    processes_with_sockets,
    tcp_sockets_listening_at,
    unix_sockets_at,
)
from discovery_haproxy.process import look

_ANY = ("", "*")
SUFFIX = 10
"""Bytes that HAProxy appends to the path of a socket while it binds."""


def too_long(bind: str) -> str | None:
    """What is wrong with the length of an address that is the path of a socket."""
    if "/" not in bind or not is_too_long_for_a_socket(Path(bind), SUFFIX):
        return None
    return f"bind {bind} is a path of more than {SOCKET_PATH_BYTES - SUFFIX} bytes: choose a shorter one"


def misplaced(bind: str, made: Collection[Path]) -> str | None:
    """What is wrong with the directory of an address that is the path of a socket. `made`: directories to come."""
    directory = Path(bind).parent
    if "/" not in bind or directory in made or directory.is_dir():
        return None
    return f"bind {bind} cannot be made: {directory} is not a directory"


def probe(binds: Iterable[str], ours: Callable[[], Collection[int]]) -> None:
    """Raise ApplyError for the first of `binds` that HAProxy could not listen on.

    What the processes `ours` listen on is no obstacle: HAProxy hands it over.
    """
    for bind in binds:
        if "/" in bind:
            _probe_path(bind, ours)
        else:
            _probe_address(bind, ours)


def _probe_address(bind: str, ours: Callable[[], Collection[int]]) -> None:
    host, _, port = bind.rpartition(":")
    host = host.strip("[]")
    if not port.isdigit():
        return  # a form of a template's own, left to HAProxy
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        found = socket.getaddrinfo(None if host in _ANY else host, port, family, flags=socket.AI_PASSIVE)
    except socket.gaierror:
        return
    address = found[0][4]
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        # Not SO_REUSEPORT: with it the address could be shared with the process that has it.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(address)
        except OSError as error:
            sockets = tcp_sockets_listening_at(str(address[0]), int(port)) if error.errno == errno.EADDRINUSE else {}
            holders = processes_with_sockets(sockets)
            if holders and holders <= set(ours()):
                return
            if sockets and not holders and _are_hidden(ours(), set(sockets.values())):
                return
            raise ApplyError(_explain(bind, error, holders)) from None


def _explain(bind: str, error: OSError, holders: Collection[int]) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"bind {bind} is in use{format_holders(holders)}: stop that, or choose another address"
    if error.errno == errno.EACCES:
        return f"bind {bind} is not permitted to this user: choose a port from 1024 up, or grant CAP_NET_BIND_SERVICE"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"bind {bind} is not an address of this machine: choose one that it has, or *:PORT"
    return f"bind {bind} cannot be used: {error.strerror}"


def _probe_path(bind: str, ours: Callable[[], Collection[int]]) -> None:
    path = Path(bind)
    if reason := too_long(bind):
        raise ApplyError(reason)
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise ApplyError(f"bind {bind} cannot be made: {path.parent} is not a directory that can be written to")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(1)
        try:
            client.connect(bind)
        except OSError:
            return  # nobody, or what a dead process left: HAProxy replaces it
    holders = processes_with_sockets(unix_sockets_at(bind))
    if not holders & set(ours()):
        raise ApplyError(_explain(bind, OSError(errno.EADDRINUSE, ""), holders))


def _are_hidden(ours: Iterable[int], users: set[str]) -> bool:
    """Whether the sockets of these users are of ours: the kernel hides what a program with capabilities has open."""
    return users == {str(os.geteuid())} and any((found := look(pid)) and not found.program for pid in ours)
