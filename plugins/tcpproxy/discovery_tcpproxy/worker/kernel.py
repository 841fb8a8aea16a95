"""State of a socket in the kernel: bytes in flight and times since activity. Nothing is changed."""

import fcntl
import socket
import struct
import sys
import termios
from typing import NamedTuple

from discovery_tcpproxy.worker.options import borrowed

_NUMBER = bytes(4)
_INFO = struct.Struct("=2xBB4xI12xI16x4I")
"""Fields of `struct tcp_info`: retransmissions, unanswered probes, the present retransmission timeout in microseconds,
unacknowledged segments, and four times in milliseconds.
"""


class Peer(NamedTuple):
    """Acknowledgements of the peer of a TCP connection."""

    acknowledgement_due: bool
    """True if data or a probe was sent after the last acknowledgement arrived."""
    silent: float
    """Seconds since the last acknowledgement arrived."""
    overdue: float
    """Seconds, at least, since the oldest unacknowledged data was sent: since the last transmission of it, and the
    retransmission timeouts before that, each of them half of the next (RFC 6298, section 5.5). 0 for a probe.
    """


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
    *_, sent, _, received, _ = _info(descriptor)
    return sent / 1000, received / 1000


def peer(descriptor: int) -> Peer | None:
    """Return the state of the peer of a TCP connection; None for another socket or a connection that has ended."""
    try:
        repeated, probes, timeout, unacknowledged, sent, _, _, acknowledged = _info(descriptor)
    except OSError:
        return None
    due = bool(probes or (unacknowledged and sent < acknowledged))
    # A probe is no data: how long ago the present probe was sent is not known.
    overdue = 0.0 if probes else sent / 1000 + timeout / 1_000_000 * (1 - 0.5**repeated)
    return Peer(due, acknowledged / 1000, overdue)


def _info(descriptor: int) -> tuple[int, ...]:
    with borrowed(descriptor) as sock:
        return _INFO.unpack(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO.size))


def _ask(descriptor: int, question: int) -> int:
    return int.from_bytes(fcntl.ioctl(descriptor, question, _NUMBER), sys.byteorder, signed=True)
