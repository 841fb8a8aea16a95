"""A check that HAProxy can listen on addresses, before a reload.

`haproxy -c` does not bind, and a reload that cannot bind stops HAProxy for a moment.
"""

import errno
import os
import socket
from collections.abc import Callable, Collection, Iterable
from functools import cache
from pathlib import Path
from typing import Any

from discovery.toolkit import (
    SOCKET_PATH_BYTES,
    format_holders,
    is_too_long_for_a_socket,
    peer_credentials,
    processes_with_sockets,
    tcp_sockets_listening_at,
    unix_sockets_at,
)
from discovery_haproxy.process import read_process
from discovery_haproxy.vantage import Vantage

SOCKET_SUFFIX_BYTES = 10
"""Bytes that HAProxy reserves in the path of a socket, for the suffix of a temporary name during the bind."""

_ANY = ("", "*")
_CONNECT_SECONDS = 1.0
"""Timeout in seconds for a connection to a Unix socket; the kernel accepts at once unless the queue is full."""


def path_length_error(bind: str) -> str | None:
    """Return an error message if the address is a socket path that is too long; else None."""
    if "/" not in bind or not is_too_long_for_a_socket(Path(bind), SOCKET_SUFFIX_BYTES):
        return None
    return f"bind {bind} is a path of more than {SOCKET_PATH_BYTES - SOCKET_SUFFIX_BYTES} bytes: choose a shorter one"


def missing_directory_error(bind: str, future_directories: Collection[Path]) -> str | None:
    """Return an error message if the address is a socket path in a directory that does not exist; else None.

    `future_directories` do not exist yet, and will exist when HAProxy binds.
    """
    directory = Path(bind).parent
    if "/" not in bind or directory in future_directories or directory.is_dir():
        return None
    return f"bind {bind} cannot be made: {directory} is not a directory"


def bind_faults(binds: Iterable[str], vantage: Callable[[], Vantage]) -> dict[str, str]:
    """Return those of `binds` that HAProxy certainly cannot listen on, each with an error message of one line.

    `vantage` is called if a probe fails. An address on which one of HAProxy's processes listens is free: HAProxy passes
    the socket on in a reload. What the vantage does not show is left to the reload.
    """
    once = cache(vantage)
    found = ((bind, _path_fault(bind, once) if "/" in bind else _address_fault(bind, once)) for bind in binds)
    return {bind: fault for bind, fault in found if fault is not None}


def is_free(bind: str) -> bool:
    """Report whether any process could listen on the address now. Takes microseconds."""
    if "/" in bind:
        return path_length_error(bind) is None and _directory_error(bind) is None and _listener(bind) is None
    address = _socket_address(bind)
    return address is None or _bind_error(*address) is None


def _address_fault(bind: str, vantage: Callable[[], Vantage]) -> str | None:
    address = _socket_address(bind)
    if address is None or (error := _bind_error(*address)) is None:
        return None
    seen = vantage()
    if not seen.network or (error.errno == errno.EACCES and not seen.rights):
        return None
    host, port = address[1][:2]
    sockets = tcp_sockets_listening_at(str(host), int(port)) if error.errno == errno.EADDRINUSE else {}
    holders = processes_with_sockets(sockets)
    if holders and holders <= seen.pids:
        return None
    if sockets and not holders and (not seen.rights or _are_hidden(seen.pids, set(sockets.values()))):
        return None
    return _error_message(bind, error, holders)


def _socket_address(bind: str) -> tuple[socket.AddressFamily, tuple[Any, ...]] | None:
    """Return the family and the address of a TCP socket; None for a form that is left to HAProxy."""
    host, _, port = bind.rpartition(":")
    host = host.strip("[]")
    if not port.isdigit():
        return None  # a form that only a user's own template contains
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        found = socket.getaddrinfo(None if host in _ANY else host, port, family, flags=socket.AI_PASSIVE)
    except socket.gaierror:
        return None
    return family, found[0][4]


def _bind_error(family: socket.AddressFamily, address: tuple[Any, ...]) -> OSError | None:
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        # Not SO_REUSEPORT: with that option the address could be shared with the process that has the address.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(address)
        except OSError as error:
            return error
    return None


def _error_message(bind: str, error: OSError, holders: Collection[int]) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"bind {bind} is in use{format_holders(holders)}: stop that, or choose another address"
    if error.errno == errno.EACCES:
        return f"bind {bind} is not permitted to this user: choose a port from 1024 up, or grant CAP_NET_BIND_SERVICE"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"bind {bind} is not an address of this machine: choose one that it has, or *:PORT"
    return f"bind {bind} cannot be used: {error.strerror}"


def _path_fault(bind: str, vantage: Callable[[], Vantage]) -> str | None:
    if error := path_length_error(bind):
        return error
    if error := _directory_error(bind):
        seen = vantage()
        is_certain = seen.files and (seen.rights or not Path(bind).parent.is_dir())
        return error if is_certain else None
    listener = _listener(bind)
    if not listener:
        return None  # if the listener is in another pid namespace, it may be HAProxy: nothing more can be known
    holders = {listener} if read_process(listener) else _heirs(bind, listener)
    seen = vantage()
    if not seen.files or holders & seen.pids:
        return None
    return _error_message(bind, OSError(errno.EADDRINUSE, ""), holders)


def _directory_error(bind: str) -> str | None:
    directory = Path(bind).parent
    if directory.is_dir() and os.access(directory, os.W_OK):
        return None
    return f"bind {bind} cannot be made: {directory} is not a directory that can be written to"


def _listener(path: str) -> int | None:
    """Return the pid of the process that began to listen on the socket, 0 for a pid of another namespace; else None.

    None also for the file of a dead process, which HAProxy replaces.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(_CONNECT_SECONDS)
        try:
            client.connect(path)
            return peer_credentials(client).pid
        except OSError:
            return None


def _heirs(bind: str, listener: int) -> set[int]:
    """Return the processes that have the socket of the process `listener`, which has ended.

    HAProxy binds a temporary name and renames the file, so that the kernel goes on listing the temporary name.
    """
    return processes_with_sockets({*unix_sockets_at(bind), *unix_sockets_at(f"{bind}.{listener}.tmp")})


def _are_hidden(own_pids: Iterable[int], users: set[str]) -> bool:
    """Report whether sockets of these users may belong to own processes whose open files the kernel hides.

    The kernel hides the open files of a program with capabilities, and its executable as well.
    """
    own_user = users == {str(os.geteuid())}
    return own_user and any((found := read_process(pid)) and not found.program for pid in own_pids)
