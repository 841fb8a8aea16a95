"""JSON objects and descriptors between processes of one user, over a Unix socket (SOCK_SEQPACKET, SCM_RIGHTS)."""

import asyncio
import json
import os
import socket
import struct
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from discovery.system.unixsocket import peer_credentials

_FULL_SECONDS = 0.01
"""Seconds until a message is sent again over a socket whose buffer is full."""
MOST_SOCKETS = 250
"""Sockets in one packet; the kernel takes 253 (SCM_MAX_FD)."""
MOST_BYTES = 1 << 16
"""Bytes of a message: the buffer for one packet. Senders split what is longer."""


def new_channel() -> socket.socket:
    """A socket that is neither bound nor connected, and does not block."""
    channel = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    channel.setblocking(False)
    return channel


def peer(channel: socket.socket) -> int:
    """The pid at the other end. Raises ValueError if it is another user's."""
    other = peer_credentials(channel)
    if other.uid != os.geteuid():
        raise ValueError(f"process {other.pid} belongs to another user, {other.uid}")
    return other.pid


async def send(channel: socket.socket, message: Mapping[str, Any], descriptors: Sequence[int] = ()) -> None:
    """Send a message, and descriptors beside it. Raises OSError."""
    while True:
        try:
            socket.send_fds(channel, [json.dumps(message).encode()], descriptors, socket.MSG_NOSIGNAL)
        except BlockingIOError:
            await asyncio.sleep(_FULL_SECONDS)
        else:
            return


async def receive(channel: socket.socket) -> tuple[dict[str, Any], list[socket.socket]]:
    """The next message and its sockets. Raises EOFError at the end, ValueError for what is no message, and OSError."""
    await readable(channel.fileno())
    # Not recv_fds, which in Python 3.11 ignores its flags: children would get the sockets.
    room = socket.CMSG_SPACE(MOST_SOCKETS * struct.calcsize("i"))
    data, ancillary, flags, _ = channel.recvmsg(MOST_BYTES, room, socket.MSG_CMSG_CLOEXEC)
    sockets = []
    for level, kind, rights in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            sockets += [socket.socket(fileno=each) for (each,) in struct.iter_unpack("i", rights)]
    try:
        if not data:
            raise EOFError("it has closed the connection")
        if flags & socket.MSG_TRUNC:
            raise ValueError(f"a message is longer than {MOST_BYTES} bytes")
        message = json.loads(data)
        if not isinstance(message, dict):
            raise ValueError("a message is no object")
    except BaseException:  # whatever it is, no received descriptor is left open
        close_all(sockets)
        raise
    return message, sockets


async def readable(descriptor: int) -> None:
    """Wait until there is something to read."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(descriptor, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(descriptor)


def close_all(sockets: Collection[socket.socket]) -> None:
    """Close every socket."""
    for each in sockets:
        each.close()
