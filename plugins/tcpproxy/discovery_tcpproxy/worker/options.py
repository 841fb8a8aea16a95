"""Socket options other than the kernel's defaults."""

import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_TCP_RTO_MAX_MS = 44  # linux/tcp.h
_NO_LINGER = struct.pack("ii", 1, 0)
_ASKS_AFTER, _ASKS_EVERY, _ASKS = 300, 30, 5
"""Seconds without a byte until the other side is asked whether it is there; between two such questions; how many."""


@contextmanager
def borrowed(descriptor: int) -> Iterator[socket.SocketType]:
    """A socket as an object, for what is rare: to make one takes longer than to read. It stays open."""
    sock = socket.SocketType(fileno=descriptor)
    try:
        yield sock
    finally:
        sock.detach()


def end_sending(descriptor: int) -> None:
    """Send a FIN."""
    # Told what it is, it asks the kernel less; for this, any family will do.
    sock = socket.SocketType(socket.AF_INET, socket.SOCK_STREAM, 0, descriptor)
    try:
        sock.shutdown(socket.SHUT_WR)
    except OSError:
        pass  # it has been reset: its own event tells
    finally:
        sock.detach()


def send_last(descriptor: int, data: memoryview) -> int:
    """Send of this what is taken: how much. If all is, a FIN comes with it, in one packet. Raises OSError."""
    # Told what it is, as above.
    sock = socket.SocketType(socket.AF_INET, socket.SOCK_STREAM, 0, descriptor)
    try:
        sent = sock.send(data, socket.MSG_MORE)
        if sent == len(data):
            sock.shutdown(socket.SHUT_WR)
    finally:
        sock.detach()
    return sent


def no_linger(descriptor: int) -> None:
    """Make a close of the socket send an RST."""
    with suppress(OSError), borrowed(descriptor) as sock:  # it is closed all the same
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)


def keep_alive(descriptor: int) -> None:
    """Notice when the other side has vanished without a word; what a listening socket accepts inherits it."""
    with suppress(OSError), borrowed(descriptor) as sock:  # it has ended
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _ASKS_AFTER)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _ASKS_EVERY)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _ASKS)


def probe_often(descriptor: int, seconds: float) -> None:
    """Bound the interval of probes to a peer that does not read. Before Linux 6.15 it grows to two minutes."""
    with suppress(OSError), borrowed(descriptor) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, _TCP_RTO_MAX_MS, max(1000, min(120_000, round(seconds * 1000))))


def is_itself(descriptor: int) -> bool:
    """Whether it is connected to itself, as happens where nobody listens and the port that it was given is that one.

    If so, closing it leaves nothing in the way of who is to listen there.
    """
    try:
        with borrowed(descriptor) as sock:
            itself = sock.getsockname()[:2] == sock.getpeername()[:2]
    except OSError:  # it has ended
        return False
    if itself:
        no_linger(descriptor)
    return bool(itself)
