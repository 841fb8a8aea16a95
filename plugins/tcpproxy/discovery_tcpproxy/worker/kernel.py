"""State of a socket in the kernel: bytes in flight and times since activity. Nothing is changed."""

import fcntl
import socket
import struct
import sys
import termios
from typing import NamedTuple

from discovery_tcpproxy.worker.options import borrowed

_NUMBER = bytes(4)
_INFO = struct.Struct("=3xB20xI16x4I")
"""Fields of `struct tcp_info`: unanswered probes, unacknowledged segments, and four times in milliseconds."""


class Peer(NamedTuple):
    """Acknowledgements of the peer of a TCP connection."""

    acknowledgement_due: bool
    """True if data or a probe was sent after the last acknowledgement arrived."""
    silent: float
    """Seconds since the last acknowledgement arrived."""


def unsent(descriptor: int) -> int:
    """Return the number of bytes that the peer has not acknowledged (Unix socket: not read). A FIN counts as one."""
    return _ask(descriptor, termios.TIOCOUTQ)


def unread(descriptor: int) -> int:
    """Return the number of received bytes that have not been read."""
    return _ask(descriptor, termios.FIONREAD)


def ages(descriptor: int) -> tuple[float, float]:
    """Return the seconds since data was last sent and last received on a TCP socket, or since the connect.

    Raises OSError.
    """
    _, _, sent, _, received, _ = _info(descriptor)
    return sent / 1000, received / 1000


def peer(descriptor: int) -> Peer | None:
    """Return the state of the peer of a TCP connection; None for another socket or a connection that has ended."""
    try:
        probes, unacknowledged, sent, _, _, acknowledged = _info(descriptor)
    except OSError:
        return None
    return Peer(bool(probes or (unacknowledged and sent < acknowledged)), acknowledged / 1000)


def _info(descriptor: int) -> tuple[int, ...]:
    with borrowed(descriptor) as sock:
        return _INFO.unpack(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO.size))


def _ask(descriptor: int, question: int) -> int:
    return int.from_bytes(fcntl.ioctl(descriptor, question, _NUMBER), sys.byteorder, signed=True)
