"""A check that HAProxy can listen on addresses, before a reload.

`haproxy -c` does not bind, and a reload that cannot bind stops HAProxy for a moment. Addresses have the form of
`listeners.listeners_in`. An address in a form that cannot be judged passes the check.
"""

import asyncio
import errno
import ipaddress
import os
import socket
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from discovery import join_host_port
from discovery.toolkit import (
    SOCKET_PATH_BYTES,
    SocketTable,
    format_holders,
    is_too_long_for_a_socket,
    peer_credentials,
    processes_with_sockets,
    unix_sockets_at,
)
from discovery_haproxy.deployment.vantage import Vantage
from discovery_haproxy.program.process import read_process, socket_inodes
from discovery_haproxy.text.listeners import Listener, SocketKind, parse_listener

SOCKET_SUFFIX_BYTES = 10
"""Bytes that HAProxy reserves in the path of a socket, for the suffix of a temporary name during the bind."""

_IP_FREEBIND = 15
"""Option of a socket to bind an address that is not of this machine. See ip(7); Python has no name for it."""
_CONNECT_SECONDS = 1.0
"""Timeout in seconds for a connection to a Unix socket; the kernel accepts at once unless the queue is full."""
_ENDING_SECONDS = 0.5
"""Seconds in which the sockets of an ending process close, which the search of processes does not find any more."""
_POLL_SECONDS = 0.01
"""Seconds between two attempts to listen on an address that an ending process holds: short beside its end."""
_ABSTRACT_NAME_BYTES = 107
"""Bytes to which HAProxy fills up an abstract name with zeros: all of `sun_path` but the zero before the name."""

_Address = tuple[socket.AddressFamily, Any]


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
    the socket on in a reload. What the vantage does not show is left to the reload. So is an address whose holder has
    ended meanwhile, as a HAProxy that was killed.
    """
    moment = _Moment(vantage)
    found = ((bind, _fault(listener, moment)) for bind in binds if (listener := parse_listener(bind)) is not None)
    return {bind: fault for bind, fault in found if fault is not None and not is_free(bind)}


async def find_bind_faults(binds: Iterable[str], vantage: Callable[[], Vantage]) -> dict[str, str]:
    """Return `bind_faults`, on another thread if a probe may wait for a name server or a socket."""
    asked = tuple(binds)
    if any(map(_may_wait, asked)):
        return await asyncio.to_thread(bind_faults, asked, vantage)
    return bind_faults(asked, vantage)


async def any_is_free(binds: Iterable[str]) -> bool:
    """Report whether one of the addresses `is_free`, on another thread if a probe may wait."""
    asked = tuple(binds)
    if any(map(_may_wait, asked)):
        return await asyncio.to_thread(lambda: any(map(is_free, asked)))
    return any(map(is_free, asked))


def is_free(bind: str) -> bool:
    """Report whether any process could listen on the address now.

    Takes microseconds, for each port of a range, unless the address is a host name or a Unix socket.
    """
    listener = parse_listener(bind)
    if listener is None:
        return True
    if listener.kind is SocketKind.PATH:
        path = listener.name
        return path_length_error(path) is None and _directory_error(path) is None and _listening_pid(path) is None
    if listener.kind is SocketKind.ABSTRACT:
        return _bind_error(listener, _abstract_address(listener.name)) is None
    return all(
        _bind_error(listener, address) is None
        for port in listener.ports
        if (address := _resolve(listener, port)) is not None
    )


class _Moment:
    """The sockets of this machine and HAProxy's processes at one moment, read when they are first asked for."""

    def __init__(self, vantage: Callable[[], Vantage]) -> None:
        self._vantage = vantage
        self._tables: dict[SocketKind, SocketTable] = {}

    @cached_property
    def seen(self) -> Vantage:
        return self._vantage()

    @cached_property
    def own_inodes(self) -> set[str]:
        return socket_inodes(self.seen.pids)

    def sockets_at(self, listener: Listener, host: str, port: int) -> Mapping[str, str]:
        """Return the sockets that keep `listener` from this address: inodes, with user ids."""
        if (table := self._tables.get(listener.kind)) is None:
            table = self._tables[listener.kind] = SocketTable("udp" if listener.kind is SocketKind.UDP else "tcp")
        return table.sockets_at(host, port, v6only=listener.ipv6_only is True)


def _fault(listener: Listener, moment: _Moment) -> str | None:
    if listener.kind is SocketKind.PATH:
        return _path_fault(listener.name, moment)
    if listener.kind is SocketKind.ABSTRACT:
        return _abstract_fault(listener, moment)
    faults = (_port_fault(listener, port, moment) for port in listener.ports)
    return next((fault for fault in faults if fault is not None), None)


def _port_fault(listener: Listener, port: int, moment: _Moment) -> str | None:
    address = _resolve(listener, port)
    if address is None or (error := _bind_error(listener, address)) is None:
        return None
    if not moment.seen.network or (error.errno == errno.EACCES and not moment.seen.rights):
        return None
    if error.errno == errno.ENODEV:
        return f"bind {_place(listener, port)} cannot be used: there is no network interface {listener.interface}"
    if error.errno != errno.EADDRINUSE:
        return _error_message(_place(listener, port), error, ())
    sockets = moment.sockets_at(listener, str(address[1][0]).partition("%")[0], port)
    if sockets and sockets.keys() <= moment.own_inodes:
        return None
    holders = processes_with_sockets(sockets)
    seen = moment.seen
    if holders and holders <= seen.pids:
        return None
    if sockets and not holders and (not seen.rights or _are_hidden(seen.pids, set(sockets.values()))):
        return None
    if not holders and _is_freed(_place(listener, port)):
        return None
    return _error_message(_place(listener, port), error, holders)


def _is_freed(bind: str) -> bool:
    """Wait for the end of a process that nobody finds any more. Return True if the address is free then.

    A process that is killed has no command line and no files that can be listed before its sockets are closed.
    """
    deadline = time.monotonic() + _ENDING_SECONDS
    while not (free := is_free(bind)) and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
    return free


def _place(listener: Listener, port: int) -> str:
    host = listener.name or ("::" if listener.ipv6 else "*")
    return join_host_port(host, port)


def _may_wait(bind: str) -> bool:
    """Report whether a probe asks a name server, or connects to a socket whose queue may be full."""
    listener = parse_listener(bind)
    if listener is None:
        return False
    return listener.kind in (SocketKind.PATH, SocketKind.ABSTRACT) or not _is_literal(listener.name)


def _is_literal(host: str) -> bool:
    try:
        return not host or bool(ipaddress.ip_address(host))
    except ValueError:
        return False


def _resolve(listener: Listener, port: int) -> _Address | None:
    """Return the family and the address of an IP socket; None for a host name that has no address."""
    family = socket.AF_INET6 if listener.ipv6 else socket.AF_INET
    try:
        found = socket.getaddrinfo(listener.name or None, port, family, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError):
        return None
    return family, found[0][4]


def _abstract_address(name: str) -> _Address:
    return socket.AF_UNIX, b"\0" + os.fsencode(name).ljust(_ABSTRACT_NAME_BYTES, b"\0")


def _bind_error(listener: Listener, address: _Address) -> OSError | None:
    """Bind a socket as HAProxy does, and return the error of the attempt.

    None if there is no error, or if this user may not set the options of the socket.
    """
    family, place = address
    kind = socket.SOCK_DGRAM if listener.kind is SocketKind.UDP else socket.SOCK_STREAM
    with socket.socket(family, kind) as probe:
        if listener.kind is SocketKind.TCP:
            # Not SO_REUSEPORT: with that option the address could be shared with the process that has the address.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if listener.transparent:
            probe.setsockopt(socket.SOL_IP, _IP_FREEBIND, 1)
        if listener.ipv6 and listener.ipv6_only is not None:
            probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, listener.ipv6_only)
        try:
            if listener.interface:
                interface = os.fsencode(listener.interface) + b"\0"
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface)
        except OSError as error:
            return error if error.errno == errno.ENODEV else None
        try:
            probe.bind(place)
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


def _abstract_fault(listener: Listener, moment: _Moment) -> str | None:
    address = _abstract_address(listener.name)
    if (error := _bind_error(listener, address)) is None or not moment.seen.network:
        return None
    pid = _listening_pid(address[1])
    if pid == 0:
        return None
    listed = os.fsdecode(address[1]).replace("\0", "@")
    holders = {pid} if pid and read_process(pid) else processes_with_sockets(unix_sockets_at(listed))
    if holders & moment.seen.pids or (not holders and _is_freed(f"abns@{listener.name}")):
        return None
    return _error_message(f"abns@{listener.name}", error, holders)


def _path_fault(path: str, moment: _Moment) -> str | None:
    if error := path_length_error(path):
        return error
    if error := _directory_error(path):
        is_certain = moment.seen.files and (moment.seen.rights or not Path(path).parent.is_dir())
        return error if is_certain else None
    pid = _listening_pid(path)
    if not pid:
        return None  # a listener in another pid namespace, of which nothing more can be known, may be HAProxy
    # HAProxy binds a temporary name and renames the file, so that the kernel goes on listing the temporary name.
    inodes = {*unix_sockets_at(path), *unix_sockets_at(f"{path}.{pid}.tmp")}
    holders = {pid} if read_process(pid) else processes_with_sockets(inodes)
    if not moment.seen.files or holders & moment.seen.pids or (not holders and _is_freed(path)):
        return None
    return _error_message(path, OSError(errno.EADDRINUSE, ""), holders)


def _directory_error(path: str) -> str | None:
    directory = Path(path).parent
    if directory.is_dir() and os.access(directory, os.W_OK):
        return None
    return f"bind {path} cannot be made: {directory} is not a directory that can be written to"


def _listening_pid(address: str | bytes) -> int | None:
    """Return the pid of the process that began to listen on the socket, 0 for a pid of another namespace; else None.

    None also for the file of a dead process, which HAProxy replaces.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(_CONNECT_SECONDS)
        try:
            client.connect(address)
            return peer_credentials(client).pid
        except OSError:
            return None


def _are_hidden(own_pids: Iterable[int], users: set[str]) -> bool:
    """Report whether sockets of these users may belong to own processes whose open files the kernel hides.

    The kernel hides the open files of a program with capabilities, and its executable as well.
    """
    own_user = users == {str(os.geteuid())}
    return own_user and any((found := read_process(pid)) and not found.program for pid in own_pids)
