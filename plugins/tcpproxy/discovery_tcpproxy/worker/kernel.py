"""The kernel's view of a socket: bytes in flight, and the time since any moved. Reads only."""

import fcntl
import socket
import struct
import sys
import termios
from typing import NamedTuple

from discovery_tcpproxy.worker.options import borrowed

_NUMBER = bytes(4)
_INFO = struct.Struct("=3xB20xI16x4I")
"""Of `struct tcp_info`: unanswered probes, unacknowledged segments, and four times in milliseconds."""


class Peer(NamedTuple):
    """The acknowledgements of the other side of a TCP connection."""

    owes_an_answer: bool
    """Whether something that it has to acknowledge, data or a probe, was sent after its last acknowledgement came."""
    silent: float
    """Seconds since its last acknowledgement came."""


def unsent(descriptor: int) -> int:
    """Bytes, a FIN counted as one, that the other side has not acknowledged (of a Unix socket: not read)."""
    return _ask(descriptor, termios.TIOCOUTQ)


def unread(descriptor: int) -> int:
    """Bytes that have come and have not been read."""
    return _ask(descriptor, termios.FIONREAD)


def ages(descriptor: int) -> tuple[float, float]:
    """Seconds since data was last sent on a TCP socket, and received, or since it was connected. Raises OSError."""
    _, _, sent, _, received, _ = _info(descriptor)
    return sent / 1000, received / 1000


def peer(descriptor: int) -> Peer | None:
    """What is known of the other side of a TCP connection; None: it is no TCP connection, or has ended."""
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
