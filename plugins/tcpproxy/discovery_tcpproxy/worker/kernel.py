"""What the kernel knows about a socket: bytes on their way, and how long ago any moved. Reads only."""

import fcntl
import socket
import struct
import sys
import termios

from discovery_tcpproxy.worker.options import borrowed

_NUMBER = bytes(4)
_INFO = struct.Struct("=44xI4xI")
"""Of `struct tcp_info`: milliseconds since data was last sent, and since any was received."""


def unsent(descriptor: int) -> int:
    """Bytes, a FIN counted as one, that the other side has not acknowledged (of a Unix socket: not read)."""
    return _ask(descriptor, termios.TIOCOUTQ)


def unread(descriptor: int) -> int:
    """Bytes that have come and have not been read."""
    return _ask(descriptor, termios.FIONREAD)


def quiet_for(descriptor: int) -> float:
    """Seconds since data moved on a TCP socket, or since it was connected. Raises OSError."""
    with borrowed(descriptor) as sock:
        told = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO.size)
    return float(min(_INFO.unpack(told))) / 1000


def _ask(descriptor: int, question: int) -> int:
    return int.from_bytes(fcntl.ioctl(descriptor, question, _NUMBER), sys.byteorder, signed=True)
