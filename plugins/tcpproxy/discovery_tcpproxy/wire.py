"""Frames between the control plane and a worker: a length, a JSON object, and descriptors that ride along.

Over an AF_UNIX stream socket. Standard library alone: the worker imports it.
"""

import array
import json
import os
import socket
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

MAX_DESCRIPTORS = 250
"""In one frame; the kernel takes 253 (SCM_MAX_FD)."""
FIRST = 1
"""The number of a channel's first question. A worker that has a control plane refuses it to another, unread."""
_HEADER = struct.Struct("!I")
_READ = 1 << 16


def encode(message: Mapping[str, Any]) -> bytes:
    """A frame, without its descriptors."""
    body = json.dumps(message, separators=(",", ":")).encode()
    return _HEADER.pack(len(body)) + body


def send(channel: socket.socket, message: Mapping[str, Any], descriptors: Sequence[int] = ()) -> None:
    """Send a frame on a blocking socket. Raises OSError when the other side is gone."""
    frame = memoryview(encode(message))
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
    sent = channel.sendmsg([frame], rights)
    if sent < len(frame):  # even an empty rest raises once the other side has obeyed and gone
        channel.sendall(frame[sent:])


class Reader:
    """Puts frames together from what arrives; works for blocking and non-blocking sockets alike."""

    def __init__(self, channel: socket.socket) -> None:
        """Read from `channel`."""
        self._channel = channel
        self._bytes = bytearray()
        self._descriptors: list[int] = []

    def read(self) -> bool:
        """Take in what has arrived; False at the end of the stream. Raises BlockingIOError if nothing has."""
        data, rights, _, _ = self._channel.recvmsg(
            _READ, socket.CMSG_SPACE(MAX_DESCRIPTORS * 4), socket.MSG_CMSG_CLOEXEC
        )
        for level, kind, values in rights:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                numbers = array.array("i")
                numbers.frombytes(values[: len(values) - len(values) % numbers.itemsize])
                self._descriptors.extend(numbers)
        self._bytes += data
        return bool(data)

    def frames(self) -> Iterator[tuple[dict[str, Any], list[int]]]:
        """The frames that are complete, each with the descriptors that arrived up to its end.

        A frame with descriptors is answered before the next is sent, so that they cannot be mistaken for another's.
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
        """Close the descriptors that came without the rest of their frame."""
        for descriptor in self._descriptors:
            os.close(descriptor)
        self._descriptors = []
