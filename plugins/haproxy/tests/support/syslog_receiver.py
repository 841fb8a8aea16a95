"""A receiver of syslog datagrams, as rsyslog is."""

import socket
from pathlib import Path
from threading import Thread
from typing import Self

_RCVBUFFORCE = 33
"""SO_RCVBUFFORCE of socket(7), which Python does not name: a buffer beyond net.core.rmem_max, for root alone."""
_BUFFER_BYTES = 64 << 20


class SyslogReceiver:
    """Collects the messages that arrive at a Unix socket, or without a path at a free UDP port of 127.0.0.1."""

    def __init__(self, path: Path | None = None) -> None:
        family = socket.AF_INET if path is None else socket.AF_UNIX
        self.lines: list[str] = []
        self._socket = socket.socket(family, socket.SOCK_DGRAM)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, _RCVBUFFORCE, _BUFFER_BYTES)
        except PermissionError:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
        self._socket.bind(("127.0.0.1", 0) if path is None else str(path))
        self.address = str(path) if path else f"127.0.0.1:{self._socket.getsockname()[1]}"
        self._thread = Thread(target=self._receive)
        self._ended = False

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended = True
        with socket.socket(self._socket.family, socket.SOCK_DGRAM) as waker:
            waker.sendto(b"", self._socket.getsockname())
        self._thread.join()
        self._socket.close()

    @property
    def lost(self) -> int:
        """Number of datagrams that the kernel dropped because the buffer was full; HAProxy is told for Unix sockets."""
        if self._socket.family == socket.AF_UNIX:
            return 0
        port = f":{self._socket.getsockname()[1]:04X} "
        rows = [line.split() for line in Path("/proc/net/udp").read_text().splitlines() if port in line]
        return sum(int(row[-1]) for row in rows)

    def requests(self, marker: str) -> int:
        """Return the number of lines with this text."""
        return sum(marker in line for line in tuple(self.lines))

    def line(self, marker: str) -> str:
        """Return the only line with this text, without the header of syslog."""
        (line,) = [line for line in self.lines if marker in line]
        return line.partition("]: ")[2]

    def _receive(self) -> None:
        while not self._ended:
            message = self._socket.recv(1 << 16)
            if message:
                self.lines.append(message.decode().rstrip("\n"))
