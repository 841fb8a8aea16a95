"""What sockets are told to do beyond the kernel's defaults."""

import socket
import struct
from contextlib import suppress

_NO_LINGER = struct.pack("ii", 1, 0)
_ASKS_AFTER, _ASKS_EVERY, _ASKS = 300, 30, 5
"""Seconds without a byte until the other side is asked whether it is there; between two such questions; how many."""


def no_linger(sock: socket.SocketType) -> None:
    """Have it closed with an RST."""
    with suppress(OSError):  # it is closed all the same
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)


def keep_alive(sock: socket.SocketType) -> None:
    """Notice when the other side has vanished without a word; what a listening socket accepts inherits it."""
    with suppress(OSError):  # it has ended
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _ASKS_AFTER)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _ASKS_EVERY)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _ASKS)


def is_itself(sock: socket.SocketType) -> bool:
    """Whether it is connected to itself, as happens where nobody listens and the port that it was given is that one.

    If so, closing it leaves nothing in the way of who is to listen there.
    """
    try:
        itself = sock.getsockname()[:2] == sock.getpeername()[:2]
    except OSError:  # it has ended
        return False
    if itself:
        no_linger(sock)
    return bool(itself)
