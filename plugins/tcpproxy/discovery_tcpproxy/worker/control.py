"""The worker's side of the control channel: what it is told to do, and what it answers."""

import os
import socket
from collections.abc import Mapping
from typing import Any

from discovery_tcpproxy import wire
from discovery_tcpproxy.worker.acceptor import Acceptor
from discovery_tcpproxy.worker.descriptors import Descriptors
from discovery_tcpproxy.worker.listener import Listener, Shared
from discovery_tcpproxy.worker.loop import Loop
from discovery_tcpproxy.worker.report import connections_told, told
from discovery_tcpproxy.worker.stream import Buffer

GRACE = 30.0
"""Seconds for connections when the control plane is gone, unless it said otherwise."""
_BACKLOG = 1 << 20
"""Bytes that wait for the control plane; beyond them events, not answers, are dropped."""
_IN, _OUT = 1, 4


class Control:
    """Obeys the control plane. Without one nothing is accepted: a successor needs the addresses at once."""

    def __init__(self, channel: socket.socket) -> None:
        """Prepare; `run` serves."""
        channel.setblocking(False)
        self._channel = channel
        self._reader = wire.Reader(channel)
        self._unsent = bytearray()
        self._blocked = False  # what is unsent waits until the control plane reads
        self._settling = False
        self._dropped = 0
        self._loop = Loop(self._broken)
        self._descriptors = Descriptors(self._loop, self._pause, self._resume)
        self._shared = Shared(self._loop, Buffer(), self._descriptors, self._tell, self._ended)
        self._acceptors: dict[str, Acceptor] = {}
        self._listeners: dict[str, Listener] = {}
        self._wanted: frozenset[str] = frozenset()
        self._services: dict[str, list[dict[str, Any]]] = {}
        self._grace = GRACE
        self._stopping = False

    def run(self) -> None:
        """Serve until told to stop, and done."""
        self._loop.add(self._channel.fileno(), self, _IN)
        self._loop.run()

    # The channel.

    def event(self, events: int) -> None:
        """Obey what has arrived, and send what could not be sent."""
        if events & _OUT:
            self._flush()
        if not events & ~_OUT:
            return
        try:
            alive = self._reader.read()
        except BlockingIOError:
            return
        except OSError:
            alive = False
        for message, descriptors in self._reader.frames():
            self._obey(message, descriptors)
        if not alive:
            self._orphaned()

    def failed(self, error: Exception) -> None:
        """See `Handler`."""
        self._broken(error)

    def _orphaned(self) -> None:
        self._loop.remove(self._channel.fileno())
        self._unsent.clear()
        self._stop(self._grace)

    def settle(self) -> None:
        """Send the events of this batch, together."""
        self._settling = False
        self._flush()

    def _flush(self) -> None:
        try:
            while self._unsent:
                sent = self._channel.send(self._unsent, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
                del self._unsent[:sent]
        except BlockingIOError:
            pass
        except OSError:
            self._unsent.clear()  # reading will find out that nobody is there
        if self._blocked != bool(self._unsent) and self._channel.fileno() in self._loop.handlers:
            self._blocked = bool(self._unsent)
            self._loop.modify(self._channel.fileno(), _IN | _OUT if self._blocked else _IN)

    def _tell(self, event: Mapping[str, Any]) -> None:
        if len(self._unsent) > _BACKLOG:
            self._dropped += 1
            return
        self._unsent += wire.encode(event)
        if not self._settling:
            self._settling = True
            self._loop.deferred.append(self)

    def _broken(self, error: Exception) -> None:
        message = f"{type(error).__name__}: {error}"
        self._tell({"event": "log", "level": "error", "message": "worker", "fields": {"error": message}})

    # What it is told.

    def _obey(self, message: Mapping[str, Any], descriptors: list[int]) -> None:
        answer: dict[str, Any] = {"re": message.get("seq")}
        try:
            match message.get("do"):
                case "listen":
                    self._grace = message.get("grace", self._grace)
                    self._listen(message["listeners"], descriptors)
                case "backends":
                    self._backends(message["services"])
                case "stop":
                    self._stop(message["grace"], end_idle=message.get("end_idle", False))
                case "report":
                    answer |= self._report(connections=message.get("connections", False))
                case other:
                    answer["error"] = f"there is no command {other!r}"
        except Exception as error:  # noqa: BLE001 - whoever commands is told
            answer["error"] = f"{type(error).__name__}: {error}"
        finally:
            for descriptor in descriptors:
                if descriptor >= 0:
                    os.close(descriptor)
        self._unsent += wire.encode(answer)
        self._flush()

    def _listen(self, listeners: Mapping[str, Mapping[str, Any]], descriptors: list[int]) -> None:
        acceptors: dict[str, Acceptor] = {}
        for name, settings in listeners.items():
            listener = self._listeners.get(name)
            if listener is None:
                listener = self._listeners[name] = Listener(name, self._shared)
            service = listener.service
            listener.configure(settings)
            if listener.service != service:
                listener.update(self._services.get(listener.service, ()))
            for address, index in settings["sockets"].items():
                if index is None:
                    acceptors[address] = self._acceptors[address]
                    acceptors[address].listener = listener
                else:
                    sock = socket.socket(fileno=descriptors[index])
                    descriptors[index] = -1
                    acceptors[address] = Acceptor(sock, listener, self._shared)
        before, self._acceptors = self._acceptors, acceptors
        for address, acceptor in before.items():
            if acceptors.get(address) is not acceptor:
                acceptor.close()
        self._wanted = frozenset(listeners)
        self._forget()
        if not self._descriptors.paused and not self._stopping:
            self._resume()

    def _forget(self) -> None:
        """Drop listeners that have been removed, and have no connections any more."""
        for name in self._listeners.keys() - self._wanted:
            if not self._listeners[name].connections:
                self._listeners.pop(name).close()

    def _backends(self, services: Mapping[str, list[dict[str, Any]]]) -> None:
        self._services.update(services)
        for listener in self._listeners.values():
            if listener.service in services:
                listener.update(services[listener.service])

    def _stop(self, grace: float, *, end_idle: bool = False) -> None:
        for acceptor in self._acceptors.values():
            acceptor.close()
        self._acceptors = {}
        self._stopping = True
        self._loop.call_later(grace, self._late)
        if end_idle:
            for listener in self._listeners.values():
                listener.end_idle()
        self._ended_all()

    def _late(self) -> None:
        for listener in self._listeners.values():
            for connection in list(listener.connections):
                connection.abort("stopped")
        self._loop.stop()

    def _report(self, *, connections: bool) -> dict[str, Any]:
        self._forget()
        listeners = self._listeners.values()
        answer: dict[str, Any] = told(listeners)
        answer["dropped"] = self._dropped
        if connections:
            answer |= connections_told(listeners, self._loop.now)
        return answer

    # What happens.

    def _pause(self) -> None:
        for acceptor in self._acceptors.values():
            acceptor.pause()

    def _resume(self) -> None:
        for listener in self._listeners.values():
            listener.relieved()
        if self._descriptors.paused:  # these have taken what there was
            return
        for acceptor in self._acceptors.values():
            acceptor.resume()

    def _ended(self) -> None:
        self._descriptors.freed()
        if self._stopping:
            self._ended_all()

    def _ended_all(self) -> None:
        if not any(listener.connections for listener in self._listeners.values()):
            self._loop.stop()


def serve(descriptor: int) -> None:
    """Serve on this end of a socket pair."""
    Control(socket.socket(fileno=descriptor)).run()
