"""The report of a worker on its listeners, backends and connections. Pure."""

from collections.abc import Iterable
from itertools import chain, islice
from typing import Any

from discovery_tcpproxy.worker.backends import Backend
from discovery_tcpproxy.worker.listener import Listener
from discovery_tcpproxy.worker.stream import Connection

MOST_CONNECTIONS = 1000
"""In one answer; how many there are besides is told."""
_BACKEND = ("open", "connected", "connect_failures", "connect_seconds", "received", "sent")


def told(listeners: Iterable[Listener]) -> dict[str, Any]:
    """The figures: of ended connections as counted, of those that are open as they stand."""
    return {"listeners": {listener.name: _listener(listener) for listener in listeners}}


def connections_told(listeners: Iterable[Listener], now: float) -> dict[str, Any]:
    """The connections, oldest of each listener in no order, and how many did not find room."""
    listeners = tuple(listeners)
    every = chain.from_iterable(((listener, each) for each in listener.connections) for listener in listeners)
    some = [_connection(listener, each, now) for listener, each in islice(every, MOST_CONNECTIONS)]
    return {"connections": some, "more": sum(len(listener.connections) for listener in listeners) - len(some)}


def _listener(listener: Listener) -> dict[str, Any]:
    figures = listener.figures.told()
    backends = {backend: {name: getattr(backend, name) for name in _BACKEND} for backend in listener.backends}
    for connection in listener.connections:
        server = connection.server
        if connection.open and server is not None:
            figures["received"] += connection.client.received
            figures["sent"] += server.received
            backend = backends.get(connection.backend) if connection.backend is not None else None
            if backend is not None:
                backend["received"] += server.received
                backend["sent"] += connection.client.received
    figures["open"] = len(listener.connections)
    figures["holding"] = listener.holding
    figures["service"] = listener.service
    figures["backends"] = {backend.id: each | {"state": _state(backend)} for backend, each in backends.items()}
    return figures


def _state(backend: Backend) -> str:
    return "draining" if backend.draining else backend.state.value


def _connection(listener: Listener, connection: Connection, now: float) -> dict[str, Any]:
    backend, server, target = connection.backend, connection.server, connection.target
    return {
        "client": list(connection.address),
        "listener": listener.name,
        "service": listener.service,
        "backend": None if backend is None else backend.id,
        "address": None if backend is None or target is None else list(target),
        "age": round(now - connection.began, 3),
        "received": connection.client.received,
        "sent": 0 if server is None else server.received,
        "state": listener.state(connection),
    }
