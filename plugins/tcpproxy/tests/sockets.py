"""What tests do with connected sockets."""

import socket


def fill(sock: socket.socket) -> int:
    """Fill every buffer up to a peer that does not read; return the number of bytes. The socket no longer blocks."""
    sock.setblocking(False)
    sent = 0
    while True:
        try:
            sent += sock.send(bytes(1 << 16))
        except BlockingIOError:
            return sent


def is_reset(sock: socket.socket) -> bool:
    """Return True if the worker resets the connection, False if the worker sends a byte or ends the connection."""
    try:
        sock.recv(1)
    except ConnectionResetError:
        return True
    return False
