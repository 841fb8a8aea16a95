"""What tests do with connected sockets."""

import socket


def fill(sock: socket.socket) -> int:
    """Send until every buffer up to the reader, who does not read, is full: how many bytes. Blocks no longer, after."""
    sock.setblocking(False)
    sent = 0
    while True:
        try:
            sent += sock.send(bytes(1 << 16))
        except BlockingIOError:
            return sent
