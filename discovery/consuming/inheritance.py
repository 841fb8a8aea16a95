"""Listening sockets from a predecessor or from systemd, offered to consumers until the consumers are set up."""

import os
import socket
import threading
from collections.abc import Iterable, Mapping
from contextlib import suppress

from discovery.model import join_host_port

Identity = tuple[int, int]


class Inheritance:
    """Holds the sockets; from any thread.

    Each setup is offered copies, so that one which fails and closes what it took loses nothing: clients go on waiting
    in the queue of the socket.
    """

    def __init__(self, sockets: Iterable[socket.socket] = ()) -> None:
        """Take over the sockets. Of several that are one, as descriptors may be, one is kept."""
        self._lock = threading.Lock()
        self._held: dict[Identity, socket.socket] = {}
        for each in sockets:
            if self._held.setdefault(_identity(each), each) is not each:
                each.close()

    def offer(self) -> dict[Identity, socket.socket]:
        """Copies, for one setup; `settle` must follow."""
        with self._lock:
            return {identity: _copy(each) for identity, each in self._held.items()}

    def settle(self, offered: Mapping[Identity, socket.socket], *, kept: bool) -> None:
        """Close what was not taken of it; if what was taken is `kept`, nobody is offered it any more."""
        for identity, each in offered.items():
            if each.fileno() >= 0:
                each.close()
            elif kept:
                with self._lock:
                    if (original := self._held.pop(identity, None)) is not None:
                        original.close()

    def take(self) -> tuple[socket.socket, ...]:
        """All that nobody took: the caller's from now on."""
        with self._lock:
            taken, self._held = tuple(self._held.values()), {}
        return taken

    def close(self) -> list[str]:
        """Close what nobody took, and return the addresses."""
        left = self.take()
        addresses = [address_of(each) for each in left]
        for each in left:
            each.close()
        return addresses


def _copy(each: socket.socket) -> socket.socket:
    # Not `dup`, which makes the socket block: in the predecessor as well, whose workers may still accept.
    return socket.socket(fileno=os.dup(each.fileno()))


def address_of(listening: socket.socket) -> str:
    """HOST:PORT, [V6]:PORT or unix:PATH, for a person."""
    name: object = None
    with suppress(OSError):
        name = listening.getsockname()
    if isinstance(name, tuple):
        host, port = name[:2]
        return join_host_port(host, port)
    text = os.fsdecode(name) if isinstance(name, str | bytes) else ""
    return f"unix:{text.replace(chr(0), '@')}"


def _identity(each: socket.socket) -> Identity:
    status = os.fstat(each.fileno())
    return status.st_dev, status.st_ino
