"""The worker's end of the connection to the daemon: receives commands, sends answers and events."""

import os
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from discovery_tcpproxy import wire
from discovery_tcpproxy.worker.loop import Loop

_MOST_UNSENT = 1 << 20
"""Bytes that wait to be sent, above which events are dropped: some seconds of access log. Answers are not dropped."""
_IN, _OUT = 1, 4  # EPOLLIN and EPOLLOUT

OnCommand = Callable[[Mapping[str, Any], list[int]], None]


class ControlConnection:
    """Connection to the present daemon. Without a daemon events are dropped and counted."""

    def __init__(self, loop: Loop, on_command: OnCommand, on_lost: Callable[[], None]) -> None:
        """Prepare; `connect` starts.

        `on_command` is called with each message and its descriptors, `on_lost` when the daemon has closed its end.
        """
        self._loop = loop
        self._on_command = on_command
        self._on_lost = on_lost
        self._channel: socket.socket | None = None
        self._reader: wire.Reader | None = None
        self._unsent = bytearray()
        self._blocked = False  # the unsent bytes wait until the daemon reads
        self._deferred = False
        self.dropped = 0

    @property
    def connected(self) -> bool:
        """True if there is a daemon."""
        return self._channel is not None

    def connect(self, channel: socket.socket) -> None:
        """Use the connection to a daemon. There must be no other."""
        channel.setblocking(False)
        self._channel, self._reader = channel, wire.Reader(channel)
        self._loop.add(channel.fileno(), self, _IN)

    def event(self, events: int) -> None:
        """Handle commands that have arrived, and send bytes that could not be sent before. See `Handler`."""
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
                self._on_command(message, descriptors)
        finally:
            if not alive:
                self._disconnect()

    def failed(self, error: Exception) -> None:
        """Report an error of a command. See `Handler`."""
        self.report_error(error)

    def report_error(self, error: Exception) -> None:
        """Send an internal error to the log of the daemon."""
        message = f"{type(error).__name__}: {error}"
        self.send_event({"event": "log", "level": "error", "message": "worker", "fields": {"error": message}})

    def send_event(self, event: Mapping[str, Any]) -> None:
        """Send an event at the end of the batch, together with the other events."""
        if self._channel is None or len(self._unsent) > _MOST_UNSENT:
            self.dropped += 1
            return
        self._unsent += wire.encode(event)
        if not self._deferred:
            self._deferred = True
            self._loop.deferred.append(self)

    def answer(self, message: Mapping[str, Any], descriptors: Sequence[int] = ()) -> None:
        """Send an answer at once. Raises OSError if descriptors belong to the answer and cannot be sent at once."""
        self._flush()
        frame = wire.encode(message)
        if descriptors and self._channel is not None:
            if self._unsent:
                raise BlockingIOError("the daemon does not read")
            sent = socket.send_fds(self._channel, [frame], descriptors, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
            frame = frame[sent:]
        self._unsent += frame
        self._flush()

    def finish(self) -> None:
        """Send the events of this batch. See `Deferred`."""
        self._deferred = False
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
            self._unsent.clear()  # the next read reports the end of the connection
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
        self._on_lost()


def close_all(descriptors: list[int]) -> None:
    """Close the received descriptors that no command has taken; a taken descriptor is replaced by -1."""
    for descriptor in descriptors:
        if descriptor >= 0:
            os.close(descriptor)
