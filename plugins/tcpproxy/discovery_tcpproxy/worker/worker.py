"""A worker: executes the commands of the daemon, and goes on without a daemon."""

import os
import signal
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from discovery_tcpproxy import wire
from discovery_tcpproxy.worker.acceptor import Acceptor
from discovery_tcpproxy.worker.adoption_socket import AdoptionSocket
from discovery_tcpproxy.worker.buffer import ReadBuffer
from discovery_tcpproxy.worker.build import build
from discovery_tcpproxy.worker.context import WorkerContext
from discovery_tcpproxy.worker.control_connection import ControlConnection, close_all
from discovery_tcpproxy.worker.descriptors import Descriptors
from discovery_tcpproxy.worker.loop import Loop
from discovery_tcpproxy.worker.orphan import OrphanMode
from discovery_tcpproxy.worker.proxy import ListenerProxy
from discovery_tcpproxy.worker.report import connections_report, counters_report

GRACE = 30.0
"""Seconds that connections have after a stop before the daemon has sent a value: the default of the option `grace`."""
_SIGNALS_READ = 1 << 10
"""Bytes read at once from the wake-up pipe, one for each signal: more than can arrive between two reads."""
_IN = 1  # EPOLLIN


class OrphanOptions(NamedTuple):
    """Resources by which a worker outlives its daemon."""

    run_dir: Path
    """Directory of the adoption socket."""
    stderr: int
    """Descriptor to which log lines go."""
    signals: int
    """Read end of the wake-up pipe of signals."""


class Worker:
    """A worker process. Without a daemon it goes on with the last configuration until the next daemon adopts it.

    A worker that cannot be adopted, without `options` or without a listening socket, ends with its last connection.
    """

    def __init__(self, channel: socket.socket, options: OrphanOptions | None = None) -> None:
        """Prepare a worker with a connection to the daemon; `run` serves."""
        self._loop = loop = Loop(self._report_error)
        self._control = ControlConnection(loop, self._execute, self._daemon_lost)
        self._control.connect(channel)
        self._adoption = self._orphan = None
        if options is not None:
            self._adoption = AdoptionSocket(options.run_dir, loop, self._daemon_connected)
            self._orphan = OrphanMode(loop, options.stderr, lambda: self._state(options.run_dir), self._end)
            loop.add(options.signals, _Signals(options.signals, self._orphan), _IN)
        self._descriptors = Descriptors(loop, self._pause, self._resume)
        self._context = WorkerContext(
            loop, ReadBuffer(), self._descriptors, self._control.send_event, self._connection_ended
        )
        self._acceptors: dict[str, Acceptor] = {}
        self._proxies: dict[str, ListenerProxy] = {}
        self._configured: frozenset[str] = frozenset()
        self._services: dict[str, list[dict[str, Any]]] = {}
        self._grace = GRACE
        self._stopping = False
        self._reason = ""  # of a stop that no daemon ordered
        self._build = build() if options is not None else ""
        self._started = loop.now

    def run(self) -> None:
        """Serve until the worker has been stopped and its connections have ended."""
        if self._adoption is not None:
            self._adoption.open()
        try:
            self._loop.run()
        finally:
            if self._adoption is not None:
                self._adoption.close()

    # The daemon ends, and the next one adopts the worker.

    def _daemon_lost(self) -> None:
        """Handle the end of the daemon, which is unexpected unless the worker is stopping."""
        if not self._stopping and (self._adoption is None or not self._acceptors):
            self._stop(self._grace)
        if self._adoption is not None and self._orphan is not None:
            self._adoption.restore()
            self._orphan.begin()

    def _daemon_connected(self, channel: socket.socket) -> None:
        """Take a connection of another daemon, which holds the lock of the run directory."""
        if self._control.connected:
            # The end of a daemon that has died is detected in a moment; the other daemon tries again until then.
            with channel:
                wire.send(channel, {"re": wire.FIRST, "error": "the worker has a daemon", "stopping": self._stopping})
            return
        if self._orphan is not None:
            self._orphan.end()
        self._control.connect(channel)

    def _end(self, reason: str) -> None:
        """Stop without a command of a daemon."""
        self._reason = reason
        self._stop(self._grace, end_idle=True)

    def _state(self, run_dir: Path) -> str:
        if not self._stopping:
            return (
                f"connections of {run_dir.name} continue, to the last known backends, until a new daemon takes over"
                f" or `discovery stop --run-dir {run_dir.parent}` is run"
            )
        after = f" after {self._reason}" if self._reason else ""
        return f"this worker of {run_dir.name} ends with its last connection{after}"

    def _report_error(self, error: Exception) -> None:
        self._control.report_error(error)

    # Commands.

    def _execute(self, message: Mapping[str, Any], descriptors: list[int]) -> None:
        answer: dict[str, Any] = {"re": message.get("seq")}
        sockets: list[int] = []
        try:
            match message.get("do"):
                case "listen":
                    self._grace = message.get("grace", self._grace)
                    self._configure(message["listeners"], descriptors)
                case "backends":
                    self._update_backends(message["services"])
                case "stop":
                    self._stop(message.get("grace", self._grace), end_idle=message.get("end_idle", False))
                case "report":
                    answer |= self._report(connections=message.get("connections", False))
                case "hello":
                    if self._orphan is not None and descriptors:
                        self._orphan.log_to(descriptors[0], message["log_format"])
                    answer |= self._hello()
                case "sockets":
                    some = list(self._acceptors.items())[message["begin"] :][: wire.MAX_DESCRIPTORS]
                    answer["sockets"] = [address for address, _ in some]
                    sockets = [acceptor.fileno() for _, acceptor in some]
                case other:
                    answer["error"] = f"there is no command {other!r}"
        except Exception as error:  # noqa: BLE001 - the answer carries the error to the daemon
            answer["error"] = f"{type(error).__name__}: {error}"
        finally:
            close_all(descriptors)
        try:
            self._control.answer(answer, sockets)
        except OSError as error:  # descriptors cannot be queued behind unsent events; an answer without any can
            self._control.answer({"re": message.get("seq"), "error": f"{type(error).__name__}: {error}"})

    def _hello(self) -> dict[str, Any]:
        """Return the facts that a daemon needs of a worker that another daemon has started."""
        return {
            "build": self._build,
            "age": self._loop.now - self._started,
            "grace": self._grace,
            "stopping": self._stopping,
            "sockets": len(self._acceptors),
        }

    def _configure(self, listeners: Mapping[str, Mapping[str, Any]], descriptors: list[int]) -> None:
        acceptors: dict[str, Acceptor] = {}
        for name, settings in listeners.items():
            proxy = self._proxies.get(name)
            if proxy is None:
                proxy = self._proxies[name] = ListenerProxy(name, self._context)
            service = proxy.service
            proxy.configure(settings)
            if proxy.service != service:
                proxy.update(self._services.get(proxy.service, ()))
            for address, index in settings["sockets"].items():
                if index is None:
                    acceptors[address] = self._acceptors[address]
                    acceptors[address].proxy = proxy
                else:
                    sock = socket.socket(fileno=descriptors[index])
                    descriptors[index] = -1
                    acceptors[address] = Acceptor(sock, proxy, self._context)
        before, self._acceptors = self._acceptors, acceptors
        for address, acceptor in before.items():
            if acceptors.get(address) is not acceptor:
                acceptor.close()
        self._configured = frozenset(listeners)
        self._drop_removed()
        if not self._descriptors.paused and not self._stopping:
            self._resume()

    def _drop_removed(self) -> None:
        """Close the proxies of removed listeners that have no connections any more."""
        for name in self._proxies.keys() - self._configured:
            if not self._proxies[name].connections:
                self._proxies.pop(name).close()

    def _update_backends(self, services: Mapping[str, list[dict[str, Any]]]) -> None:
        self._services.update(services)
        for proxy in self._proxies.values():
            if proxy.service in services:
                proxy.update(services[proxy.service])

    def _stop(self, grace: float, *, end_idle: bool = False) -> None:
        for acceptor in self._acceptors.values():
            acceptor.close()
        self._acceptors = {}
        self._stopping = True
        self._loop.call_later(grace, self._grace_over)
        if end_idle:
            for proxy in self._proxies.values():
                proxy.end_idle()
        self._end_if_done()

    def _grace_over(self) -> None:
        for proxy in self._proxies.values():
            for connection in list(proxy.connections):
                connection.abort("stopped")
        self._loop.stop()

    def _report(self, *, connections: bool) -> dict[str, Any]:
        self._drop_removed()
        proxies = self._proxies.values()
        answer: dict[str, Any] = counters_report(proxies)
        answer["dropped"] = self._control.dropped
        if connections:
            answer |= connections_report(proxies, self._loop.now)
        return answer

    # Limits and ends.

    def _pause(self) -> None:
        for acceptor in self._acceptors.values():
            acceptor.pause()

    def _resume(self) -> None:
        for proxy in self._proxies.values():
            proxy.unblock()
        if self._descriptors.paused:  # the held clients have taken the free descriptors
            return
        for acceptor in self._acceptors.values():
            acceptor.resume()

    def _connection_ended(self) -> None:
        self._descriptors.freed()
        if self._stopping:
            self._end_if_done()

    def _end_if_done(self) -> None:
        if not any(proxy.connections for proxy in self._proxies.values()):
            self._loop.stop()


class _Signals:
    """Reader of the wake-up pipe, into which the interpreter writes a byte for each signal."""

    def __init__(self, descriptor: int, orphan: OrphanMode) -> None:
        self._descriptor = descriptor
        self._orphan = orphan

    def event(self, events: int) -> None:
        """Pass on a SIGTERM. See `Handler`."""
        if signal.SIGTERM in os.read(self._descriptor, _SIGNALS_READ):
            self._orphan.signalled()

    def failed(self, error: Exception) -> None:
        """Ignore the error. See `Handler`."""


def serve(descriptor: int, options: OrphanOptions | None = None) -> None:
    """Run a worker whose daemon is at the other end of this socket."""
    Worker(socket.socket(fileno=descriptor), options).run()
