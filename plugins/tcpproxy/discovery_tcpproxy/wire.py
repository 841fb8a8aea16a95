"""Frames between the daemon and a worker, on an AF_UNIX stream socket: a length, a JSON object, and descriptors.

The module is limited to the standard library, since workers import it.
"""

import array
import json
import os
import socket
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

MAX_DESCRIPTORS = 250
"""Descriptors in one frame at most; the limit of the kernel is 253 (SCM_MAX_FD)."""
FIRST = 1
"""Sequence number of the first request on a connection, which a worker with another daemon refuses unread."""
_HEADER = struct.Struct("!I")
_READ = 1 << 16
"""Bytes of one read: most frames are smaller."""
_DESCRIPTOR_BYTES = 4
"""Bytes of a descriptor (an int) in ancillary data."""


def encode(message: Mapping[str, Any]) -> bytes:
    """Return the bytes of a frame, without its descriptors."""
    body = json.dumps(message, separators=(",", ":")).encode()
    return _HEADER.pack(len(body)) + body


def send(channel: socket.socket, message: Mapping[str, Any], descriptors: Sequence[int] = ()) -> None:
    """Send a frame on a blocking socket. Raises OSError if the peer has closed the connection."""
    frame = memoryview(encode(message))
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
    sent = channel.sendmsg([frame], rights)
    if sent < len(frame):  # sending an empty rest would raise if the peer has ended
        channel.sendall(frame[sent:])


class Reader:
    """Reader of frames, for blocking and non-blocking sockets."""

    def __init__(self, channel: socket.socket) -> None:
        """Create a reader of the socket `channel`."""
        self._channel = channel
        self._bytes = bytearray()
        self._descriptors: list[int] = []

    def read(self) -> bool:
        """Receive bytes and descriptors; return False at the end of the stream. Raises BlockingIOError, OSError."""
        data, rights, _, _ = self._channel.recvmsg(
            _READ, socket.CMSG_SPACE(MAX_DESCRIPTORS * _DESCRIPTOR_BYTES), socket.MSG_CMSG_CLOEXEC
        )
        for level, kind, values in rights:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                numbers = array.array("i")
                numbers.frombytes(values[: len(values) - len(values) % numbers.itemsize])
                self._descriptors.extend(numbers)
        self._bytes += data
        return bool(data)

    def frames(self) -> Iterator[tuple[dict[str, Any], list[int]]]:
        """Yield the complete frames, each with the descriptors that arrived before its end.

        The protocol keeps the assignment unambiguous: the next frame is sent after the answer to one with descriptors.
        """
        while len(self._bytes) >= _HEADER.size:
            (length,) = _HEADER.unpack_from(self._bytes)
            end = _HEADER.size + length
            if len(self._bytes) < end:
                return
            message = json.loads(self._bytes[_HEADER.size : end])
            del self._bytes[:end]
            descriptors, self._descriptors = self._descriptors, []
            yield message, descriptors

    def close(self) -> None:
        """Close the descriptors of an incomplete frame."""
        for descriptor in self._descriptors:
            os.close(descriptor)
        self._descriptors = []
