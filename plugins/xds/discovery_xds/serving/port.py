"""The xDS port: whether the address is free, and how a successor takes the port over."""

import asyncio
import ipaddress
import os
import socket
import stat
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from discovery import split_host_port
from discovery.toolkit import listen_error_reason, tcp_sockets_listening_at

_LOOK_SECONDS = 0.02
"""Seconds between two looks whether the successor listens, during which both processes run."""


def take_predecessor(address: str, inherited: Iterable[socket.socket]) -> socket.socket | None:
    """Take the predecessor's socket at `address` out of `inherited`; None if there is none.

    The socket listens no more if the predecessor has ended already.
    """
    for candidate in inherited:
        if _is_at(candidate, address):
            return socket.socket(fileno=candidate.detach())
    return None


def own_listening_socket(address: str) -> socket.socket | None:
    """Return a copy of the socket of this process that listens on `address`; None if there is none, or no /proc.

    grpcio opens its listening sockets itself, tells nobody, and takes none over. So a successor listens beside its
    predecessor (`SO_REUSEPORT`, which Linux allows to one user alone). The copy tells the successor that the other
    listener is its predecessor, which accepts from the socket until it has ended.
    """
    try:
        descriptors = [int(each.name) for each in Path("/proc/self/fd").iterdir()]
    except OSError:
        return None
    for descriptor in descriptors:
        try:
            if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
                continue
            copy = socket.socket(fileno=os.dup(descriptor))
        except OSError:  # closed meanwhile
            continue
        if _is_at(copy, address) and copy.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            return copy
        copy.close()
    return None


def listeners_at(address: str) -> frozenset[str]:
    """Return the inodes of the sockets that listen at `address`."""
    try:
        return frozenset(tcp_sockets_listening_at(*split_host_port(address)))
    except OSError:  # no descriptor is free
        return frozenset()


async def wait_for_successor(address: str, own: frozenset[str], given_up: asyncio.Event, limit: float) -> None:
    """Wait until another socket than those of `own` listens at `address`, or until `given_up` is set.

    Gives up after `limit` seconds.

    Nothing tells when another process listens. The kernel gives new connections to both processes then.
    """
    deadline = time.monotonic() + limit
    while time.monotonic() < deadline:
        # On a thread: the table of a machine with many connections takes long to read.
        if await asyncio.to_thread(listeners_at, address) - own:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(_LOOK_SECONDS):
                await given_up.wait()
                return


def why_in_use(address: str) -> str:
    """Return why no process can begin to listen on `address`, else an empty text."""
    host, port = split_host_port(address)
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        return f"cannot listen on {address}: {listen_error_reason(address, error, v6only=False)}"
    return ""


def _is_at(candidate: socket.socket, address: str) -> bool:
    """Return True if the TCP socket has the address `address`. grpcio has sockets of IPv6 at IPv4 addresses."""
    try:
        if candidate.family not in (socket.AF_INET, socket.AF_INET6) or candidate.type != socket.SOCK_STREAM:
            return False
        found_host, found_port = candidate.getsockname()[:2]
    except OSError:  # taken by another consumer
        return False
    host, port = split_host_port(address)
    return found_port == port and _plain(found_host) == _plain(host)


def _plain(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Return the address, an IPv4-mapped address as IPv4; every unspecified address is 0.0.0.0."""
    address = ipaddress.ip_address(host)
    if address.is_unspecified:
        return ipaddress.IPv4Address(0)
    return getattr(address, "ipv4_mapped", None) or address
