"""Connections to HAProxy's Unix sockets."""

import asyncio
import socket
from pathlib import Path

_FULL_QUEUE_SECONDS = 0.005
"""Seconds between two attempts to connect while HAProxy's queue of connections is full."""


async def connect_to(path: Path) -> socket.socket:
    """Return a connected non-blocking socket, also if HAProxy's queue of connections is full for a while.

    The caller closes the socket, and limits the time. Raises OSError.
    """
    connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connected.setblocking(False)
        while True:
            try:
                connected.connect(str(path))
            except BlockingIOError:  # unlike a TCP socket, a Unix socket does not connect later: asyncio expects that
                await asyncio.sleep(_FULL_QUEUE_SECONDS)
            else:
                return connected
    except BaseException:  # also a cancellation: no descriptor is left open
        connected.close()
        raise
