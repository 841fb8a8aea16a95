"""The worker's end of the control channel: what arrives is obeyed, what is told is sent, while there is a daemon."""

import os
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from discovery_tcpproxy import wire
from discovery_tcpproxy.worker.loop import Loop

_BACKLOG = 1 << 20
"""Bytes that wait for the control plane; beyond them events, not answers, are dropped."""
_IN, _OUT = 1, 4

Obey = Callable[[Mapping[str, Any], list[int]], None]


class Line:
    """One control plane after another may be at the other end, or none: then what is told is dropped and counted."""

    def __init__(self, loop: Loop, obey: Obey, lost: Callable[[], None]) -> None:
        """Prepare; `connect` begins. `obey` is given each message with its descriptors; `lost`: nobody is there."""
        self._loop = loop
        self._obey = obey
        self._lost = lost
        self._channel: socket.socket | None = None
        self._reader: wire.Reader | None = None
        self._unsent = bytearray()
        self._blocked = False  # what is unsent waits until the control plane reads
        self._settling = False
        self.dropped = 0

    @property
    def connected(self) -> bool:
        """Whether there is a control plane."""
        return self._channel is not None

    def connect(self, channel: socket.socket) -> None:
        """Obey this one. There must be no other."""
        channel.setblocking(False)
        self._channel, self._reader = channel, wire.Reader(channel)
        self._loop.add(channel.fileno(), self, _IN)

    def event(self, events: int) -> None:
        """Obey what has arrived, and send what could not be sent."""
        reader = self._reader
        if events & _OUT:
            self._flush()
        if not events & ~_OUT or reader is None:
            return
        try:
            alive = reader.read()
        except BlockingIOError:
            return
        except OSError:
            alive = False
        try:
            for message, descriptors in reader.frames():
                self._obey(message, descriptors)
        finally:
            if not alive:
                self._disconnect()

    def failed(self, error: Exception) -> None:
        """See `Handler`."""
        self.broken(error)

    def broken(self, error: Exception) -> None:
        """Tell of what should not have happened."""
        message = f"{type(error).__name__}: {error}"
        self.tell({"event": "log", "level": "error", "message": "worker", "fields": {"error": message}})

    def tell(self, event: Mapping[str, Any]) -> None:
        """Send an event at the end of the batch, with the others."""
        if self._channel is None or len(self._unsent) > _BACKLOG:
            self.dropped += 1
            return
        self._unsent += wire.encode(event)
        if not self._settling:
            self._settling = True
            self._loop.deferred.append(self)

    def answer(self, message: Mapping[str, Any], descriptors: Sequence[int] = ()) -> None:
        """Send an answer now. Raises OSError if descriptors are to go with it and cannot be sent at once."""
        self._flush()
        frame = wire.encode(message)
        if descriptors and self._channel is not None:
            if self._unsent:
                raise BlockingIOError("the control plane does not read")
            sent = socket.send_fds(self._channel, [frame], descriptors, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
            frame = frame[sent:]
        self._unsent += frame
        self._flush()

    def settle(self) -> None:
        """Send the events of this batch, together."""
        self._settling = False
        self._flush()

    def _flush(self) -> None:
        channel = self._channel
        if channel is None:
            self._unsent.clear()
            return
        try:
            while self._unsent:
                sent = channel.send(self._unsent, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
                del self._unsent[:sent]
        except BlockingIOError:
            pass
        except OSError:
            self._unsent.clear()  # reading will find out that nobody is there
        if self._blocked != bool(self._unsent):
            self._blocked = bool(self._unsent)
            self._loop.modify(channel.fileno(), _IN | _OUT if self._blocked else _IN)

    def _disconnect(self) -> None:
        channel, reader = self._channel, self._reader
        self._channel = self._reader = None
        self._blocked = False
        self._unsent.clear()
        if channel is not None and reader is not None:
            self._loop.remove(channel.fileno())
            reader.close()
            channel.close()
        self._lost()


def close_all(descriptors: list[int]) -> None:
    """Close those that nobody took, whose place in the list is still filled."""
    for descriptor in descriptors:
        if descriptor >= 0:
            os.close(descriptor)
