"""The sockets of an address: one for UDP and one for TCP, opened here or inherited."""

import os
import socket
from collections.abc import Iterable
from typing import NamedTuple

from discovery import DiscoveryError, join_host_port, split_host_port
from discovery.addresses import is_unspecified, primary_address
from discovery.toolkit import listen_error_reason

BACKLOG = 1024
"""TCP connections that may wait to be accepted."""
_RECEIVE_BYTES = 4 << 20
"""Bytes of queries that may wait: some thousands, for which the kernel needs 1 to 2 KiB each.

Without CAP_NET_ADMIN the kernel allows net.core.rmem_max, which is 208 KiB by default: less than 200 queries.
"""
_SO_RCVBUFFORCE = 33
"""The option of Linux that sets the receive buffer beyond net.core.rmem_max (socket(7))."""
_IPV6_RECVPKTINFO = 49
"""The option of Linux that tells the address of this machine to which a packet was sent (ipv6(7), RFC 3542)."""
_IP_PKTINFO = 8
"""The same for IPv4 (ip(7))."""


class CannotListenError(DiscoveryError):
    """Failure to listen on an address; a later attempt may succeed."""


class Sockets(NamedTuple):
    """The sockets of an address. `wildcard` is True for an address that stands for every address of this machine."""

    bind: str
    udp: socket.socket
    tcp: socket.socket
    wildcard: bool

    def close(self) -> None:
        """Close both."""
        self.udp.close()
        self.tcp.close()


def open_sockets(bind: str, inherited: Iterable[socket.socket] = ()) -> Sockets:
    """Open the sockets of an address, or take them out of `inherited`.

    Raises CannotListenError, whose message suggests a remedy.
    """
    offered = tuple(inherited)
    host, _ = split_host_port(bind)
    opened: list[socket.socket] = []
    for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
        try:
            taken = _take(offered, bind, kind)
            opened.append(_open(bind, kind) if taken is None else taken)
            _prepare(opened[-1], wildcard=is_unspecified(host))
        except OSError as error:
            for each in opened:
                each.close()
            reason = listen_error_reason(bind, error, protocol="udp" if kind == socket.SOCK_DGRAM else "tcp")
            raise CannotListenError(f"cannot listen on {bind}: {reason}") from None
    return Sockets(bind, opened[0], opened[1], is_unspecified(host))


def copies(sockets: Iterable[Sockets]) -> tuple[socket.socket, ...]:
    """Return copies of all sockets, which share their queues. Raises OSError."""
    # Not `dup` of the socket, which makes both block.
    return tuple(socket.socket(fileno=os.dup(sock.fileno())) for each in sockets for sock in (each.udp, each.tcp))


def own_addresses(binds: Iterable[str]) -> tuple[str, ...]:
    """Return the IP addresses at which clients reach the server: of a wildcard the address that other machines use."""
    found: dict[str, None] = {}
    for bind in binds:
        host, _ = split_host_port(bind)
        address = primary_address(6 if ":" in host else 4) if is_unspecified(host) else host
        if address is not None:
            found[address.partition("%")[0]] = None
    return tuple(found)


def _take(inherited: Iterable[socket.socket], bind: str, kind: socket.SocketKind) -> socket.socket | None:
    """Take the socket with this address out of `inherited`; None if there is none."""
    for each in inherited:
        try:
            if each.type == kind and join_host_port(*each.getsockname()[:2]) == bind:
                return socket.socket(fileno=each.detach())
        except (OSError, TypeError):  # taken by another consumer; a Unix socket
            continue
    return None


def _open(bind: str, kind: socket.SocketKind) -> socket.socket:
    host, port = split_host_port(bind)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    opened = socket.socket(family, kind)
    try:
        if kind == socket.SOCK_STREAM:
            # Allows a restart while old connections end. For UDP the option would let another program share the port.
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        opened.bind((host, port))
    except OSError:
        opened.close()
        raise
    return opened


def _prepare(opened: socket.socket, *, wildcard: bool) -> None:
    opened.setblocking(False)
    if opened.type == socket.SOCK_STREAM:
        opened.listen(BACKLOG)
        return
    try:
        opened.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BYTES)
    except PermissionError:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BYTES)
    if wildcard:
        if opened.family == socket.AF_INET6:
            opened.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVPKTINFO, 1)
        else:
            opened.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
