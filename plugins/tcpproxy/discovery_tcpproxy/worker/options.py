"""Socket options that differ from the defaults of the kernel, set on plain descriptors."""

import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_TCP_RTO_MAX_MS = 44
"""Socket option of linux/tcp.h, which the socket module does not have."""
_LEAST_PROBE_INTERVAL, _MOST_PROBE_INTERVAL = 1000, 120_000
"""Milliseconds: the range that Linux accepts for TCP_RTO_MAX_MS."""
_NO_LINGER = struct.pack("ii", 1, 0)
_KEEPALIVE_IDLE, _KEEPALIVE_INTERVAL, _KEEPALIVE_PROBES = 300, 30, 5
"""Seconds without a byte until the first keep-alive probe, seconds between probes, and the number of probes.

A dead peer is detected within 7.5 minutes, before usual firewalls forget an idle connection after an hour.
"""


_TIMER_SHARE = 7 / 8
"""Share of a limit for the kernel's timers: a timer of Linux may be late by an eighth (kernel/time/timer.c)."""
_NOBODY = "no program listens there"
"""Why an attempt without an error of the kernel has failed: the socket was connected to itself."""
_ANSWER_PROBES = 3
"""Probes to a backend that owes an answer, before the connection ends: one or two may be lost."""


@contextmanager
def borrowed(descriptor: int) -> Iterator[socket.SocketType]:
    """Yield a socket object for a descriptor, which stays open. For rare calls: the object costs more than a read."""
    sock = socket.SocketType(fileno=descriptor)
    try:
        yield sock
    finally:
        sock.detach()


def end_sending(descriptor: int) -> None:
    """Send a FIN on a socket."""
    # Without family and type the constructor makes three system calls. Any family serves for `shutdown`.
    sock = socket.SocketType(socket.AF_INET, socket.SOCK_STREAM, 0, descriptor)
    try:
        sock.shutdown(socket.SHUT_WR)
    except OSError:
        pass  # reset by the peer, which epoll reports as an event of its own
    finally:
        sock.detach()


def send_last(descriptor: int, data: memoryview) -> int:
    """Send bytes, with a FIN in the same packet if the kernel accepts all bytes.

    Returns the number of bytes that were accepted. Raises OSError.
    """
    # Family and type as in `end_sending`.
    sock = socket.SocketType(socket.AF_INET, socket.SOCK_STREAM, 0, descriptor)
    try:
        sent = sock.send(data, socket.MSG_MORE)
        if sent == len(data):
            sock.shutdown(socket.SHUT_WR)
    finally:
        sock.detach()
    return sent


def no_linger(descriptor: int) -> None:
    """Make close(2) send an RST, which resets the connection and drops unsent data."""
    with suppress(OSError), borrowed(descriptor) as sock:  # the close follows in any case
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)


def keep_alive(descriptor: int) -> None:
    """Enable keep-alive probes; connections that a listening socket accepts inherit the options."""
    _probe(descriptor, _KEEPALIVE_IDLE, _KEEPALIVE_INTERVAL, _KEEPALIVE_PROBES)


def keep_alive_within(descriptor: int, seconds: float) -> None:
    """Enable keep-alive probes that end a connection within so many seconds without an acknowledgement.

    Below 4.5 s the limit is not kept: the idle time and each interval are whole seconds, so that the connection ends
    after 4 s, and up to an eighth later, since a timer may be late.
    """
    whole = int(seconds * _TIMER_SHARE)
    interval = max(1, whole // (_ANSWER_PROBES + 1))
    _probe(descriptor, max(1, whole - _ANSWER_PROBES * interval), interval, _ANSWER_PROBES)


def _probe(descriptor: int, idle: int, interval: int, probes: int) -> None:
    with suppress(OSError), borrowed(descriptor) as sock:  # the connection has ended
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, idle)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, interval)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, probes)


def limit_probe_interval(descriptor: int, seconds: float) -> None:
    """Limit the seconds between probes to a peer with a closed window; before Linux 6.15 the limit is two minutes."""
    with suppress(OSError), borrowed(descriptor) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, _TCP_RTO_MAX_MS, _interval(seconds))


def _interval(seconds: float) -> int:
    return max(_LEAST_PROBE_INTERVAL, min(_MOST_PROBE_INTERVAL, round(seconds * 1000)))


def failure_of(descriptor: int) -> str:
    """Return in words why a connection attempt has failed. The kernel tells a socket's error once: not again."""
    with borrowed(descriptor) as sock:
        code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    return os.strerror(code) if code else _NOBODY


def is_connected_to_itself(descriptor: int) -> bool:
    """Return True if a TCP socket is connected to itself.

    This happens if no program listens on a local port and the kernel assigns the same port to the connecting socket.
    The socket is then set to close with an RST, which leaves the port free for a listener.
    """
    try:
        with borrowed(descriptor) as sock:
            itself = sock.getsockname()[:2] == sock.getpeername()[:2]
    except OSError:  # the connection has ended
        return False
    if itself:
        no_linger(descriptor)
    return bool(itself)
