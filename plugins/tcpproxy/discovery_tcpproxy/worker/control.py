"""The worker's side of the control channel: what it is told to do, and what it answers."""

import os
import signal
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from discovery_tcpproxy import wire
from discovery_tcpproxy.worker.acceptor import Acceptor
from discovery_tcpproxy.worker.buffer import Buffer
from discovery_tcpproxy.worker.build import build
from discovery_tcpproxy.worker.descriptors import Descriptors
from discovery_tcpproxy.worker.door import Door
from discovery_tcpproxy.worker.line import Line, close_all
from discovery_tcpproxy.worker.listener import Listener, Shared
from discovery_tcpproxy.worker.loop import Loop
from discovery_tcpproxy.worker.orphan import Orphan
from discovery_tcpproxy.worker.report import connections_told, told

GRACE = 30.0
"""Seconds for connections when the control plane is gone, unless it said otherwise."""
_IN = 1


class Home(NamedTuple):
    """The means by which a worker outlives its daemon: the socket for the next daemon, and the place of its log."""

    run_dir: Path
    stderr: int
    signals: int
    """From which a byte can be read when a SIGTERM has come."""


class Control:
    """Obeys the control plane. Without one it goes on as it was told last, until the next one comes.

    A worker without a `home`, which no other can find, or without a listening socket ends with its last connection.
    """

    def __init__(self, channel: socket.socket, home: Home | None = None) -> None:
        """Prepare; `run` serves."""
        self._loop = loop = Loop(self._broken)
        self._line = Line(loop, self._obey, self._orphaned)
        self._line.connect(channel)
        self._door = self._orphan = None
        if home is not None:
            self._door = Door(home.run_dir, loop, self._arrived)
            self._orphan = Orphan(loop, home.stderr, lambda: self._state(home.run_dir), self._end)
            loop.add(home.signals, _Signals(home.signals, self._orphan), _IN)
        self._descriptors = Descriptors(loop, self._pause, self._resume)
        self._shared = Shared(loop, Buffer(), self._descriptors, self._line.tell, self._ended)
        self._acceptors: dict[str, Acceptor] = {}
        self._listeners: dict[str, Listener] = {}
        self._wanted: frozenset[str] = frozenset()
        self._services: dict[str, list[dict[str, Any]]] = {}
        self._grace = GRACE
        self._stopping = False
        self._reason = ""  # why it stops, if not because it was told to
        self._build = build() if home is not None else ""
        self._began = loop.now

    def run(self) -> None:
        """Serve until told to stop, and done."""
        if self._door is not None:
            self._door.open()
        try:
            self._loop.run()
        finally:
            if self._door is not None:
                self._door.close()

    # One control plane after another.

    def _orphaned(self) -> None:
        """The control plane is gone, without a word unless we are stopping."""
        if not self._stopping and (self._door is None or not self._acceptors):
            self._stop(self._grace)
        if self._door is not None and self._orphan is not None:
            self._door.look()
            self._orphan.begin()

    def _arrived(self, channel: socket.socket) -> None:
        """Another control plane, which holds the lock of the run directory."""
        if self._line.connected:
            # Of a daemon that has died the end is noticed in a moment, and this one asks again. Otherwise it lives.
            with channel:
                wire.send(channel, {"re": wire.FIRST, "error": "it has a daemon", "stopping": self._stopping})
            return
        if self._orphan is not None:
            self._orphan.end()
        self._line.connect(channel)

    def _end(self, reason: str) -> None:
        self._reason = reason
        self._stop(self._grace, end_idle=True)

    def _state(self, run_dir: Path) -> str:
        if not self._stopping:
            return (
                f"connections of {run_dir.name} are carried on, to the backends known last, until a new one takes over"
                f" or `discovery stop --run-dir {run_dir.parent}` is run"
            )
        after = f" after {self._reason}" if self._reason else ""
        return f"this worker of {run_dir.name} ends with its last connection{after}"

    def _broken(self, error: Exception) -> None:
        self._line.broken(error)

    # What it is told.

    def _obey(self, message: Mapping[str, Any], descriptors: list[int]) -> None:
        answer: dict[str, Any] = {"re": message.get("seq")}
        sockets: list[int] = []
        try:
            match message.get("do"):
                case "listen":
                    self._grace = message.get("grace", self._grace)
                    self._listen(message["listeners"], descriptors)
                case "backends":
                    self._backends(message["services"])
                case "stop":
                    self._stop(message.get("grace", self._grace), end_idle=message.get("end_idle", False))
                case "report":
                    answer |= self._report(connections=message.get("connections", False))
                case "hello":
                    if self._orphan is not None and descriptors:
                        self._orphan.speak_as(descriptors[0], message["log_format"])
                    answer |= self._hello()
                case "sockets":
                    some = list(self._acceptors.items())[message["begin"] :][: wire.MAX_DESCRIPTORS]
                    answer["sockets"] = [address for address, _ in some]
                    sockets = [acceptor.fileno() for _, acceptor in some]
                case other:
                    answer["error"] = f"there is no command {other!r}"
        except Exception as error:  # noqa: BLE001 - the daemon gets the error as the answer
            answer["error"] = f"{type(error).__name__}: {error}"
        finally:
            close_all(descriptors)
        try:
            self._line.answer(answer, sockets)
        except OSError as error:  # descriptors cannot wait, behind events that are not read yet; an answer can
            self._line.answer({"re": message.get("seq"), "error": f"{type(error).__name__}: {error}"})

    def _hello(self) -> dict[str, Any]:
        """What a control plane has to know of a worker that another has started."""
        return {
            "build": self._build,
            "age": self._loop.now - self._began,
            "grace": self._grace,
            "stopping": self._stopping,
            "sockets": len(self._acceptors),
        }

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
        answer["dropped"] = self._line.dropped
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


class _Signals:
    """SIGTERM, as a byte in a pipe."""

    def __init__(self, descriptor: int, orphan: Orphan) -> None:
        self._descriptor = descriptor
        self._orphan = orphan

    def event(self, events: int) -> None:
        """See `Handler`."""
        if signal.SIGTERM in os.read(self._descriptor, 1 << 10):
            self._orphan.signalled()

    def failed(self, error: Exception) -> None:
        """See `Handler`."""


def serve(descriptor: int, home: Home | None = None) -> None:
    """Serve on this end of a socket pair."""
    Control(socket.socket(fileno=descriptor), home).run()
