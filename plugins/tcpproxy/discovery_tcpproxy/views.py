"""What the consumer shows: samples for Prometheus, and a document for the admin endpoint. Pure."""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from discovery import Sample
from discovery_tcpproxy.config import TcpProxyConfig, service_of
from discovery_tcpproxy.sums import Figures
from discovery_tcpproxy.targets import Targets

MOST_CONNECTIONS = 1000
"""Connections that are shown one by one; of the others the number is shown."""

Kind = Literal["counter", "gauge"]
_LISTENER: tuple[tuple[str, str, Kind, str], ...] = (
    ("open", "connections_open", "gauge", "Connections of clients now"),
    ("total", "connections", "counter", "Connections of clients that were accepted"),
    ("holding", "connections_waiting", "gauge", "Clients that wait for a backend now"),
    ("held", "held", "counter", "Connections that had to wait for a backend"),
    ("received", "received_bytes", "counter", "Bytes from clients"),
    ("sent", "sent_bytes", "counter", "Bytes to clients"),
    ("connected", "connects", "counter", "Connections to backends that were made"),
    ("connect_seconds", "connect_seconds", "counter", "Seconds that making them took, together"),
    ("connect_failures", "connect_failures", "counter", "Backends that refused a connection, or did not answer"),
    ("retries", "retries", "counter", "Connections that were tried on another backend"),
)
_BACKEND: tuple[tuple[str, str, Kind, str], ...] = (
    ("open", "backend_connections_open", "gauge", "Connections to the backend now"),
    ("connected", "backend_connects", "counter", "Connections to the backend that were made"),
    ("connect_seconds", "backend_connect_seconds", "counter", "Seconds that making them took, together"),
    ("connect_failures", "backend_connect_failures", "counter", "Connections that the backend refused or let wait"),
    ("received", "backend_received_bytes", "counter", "Bytes from the backend"),
    ("sent", "backend_sent_bytes", "counter", "Bytes to the backend"),
)


@dataclass(frozen=True, slots=True)
class WorkerView:
    """A worker that runs; `started` is `time.monotonic()`."""

    number: int
    pid: int
    started: float


@dataclass(frozen=True, slots=True)
class View:
    """The consumer at one moment."""

    config: TcpProxyConfig
    listening: frozenset[str]
    not_listening: Mapping[str, str]
    """Why, for each address that is not open."""
    targets: Targets
    left_out: tuple[str, ...]
    figures: Figures
    workers: tuple[WorkerView, ...]
    replaced: int


def samples(view: View) -> Iterator[Sample]:
    """The figures. Backends that have left are not shown any more."""
    yield Sample("workers", len(view.workers), kind="gauge", help="Workers that run")
    yield Sample("workers_replaced", view.replaced, help="Workers that died, or were ended because they hung")
    yield Sample("access_log_dropped", view.figures.get("dropped", 0), help="Lines for the log that were lost")
    for name, listener in view.config.listen.items():
        labels = {"listener": name}
        for bind in listener.bind:
            up = float(bind in view.listening)
            yield Sample("listening", up, {**labels, "address": bind}, "gauge", "Whether the address is open")
        figures = view.figures.get("listeners", {}).get(name, {})
        for key, metric, kind, text in _LISTENER:
            yield Sample(metric, figures.get(key, 0), labels, kind, text)
        for reason, count in sorted(figures.get("rejected", {}).items()):
            yield Sample("rejected", count, {**labels, "reason": reason}, help="Clients that were not served")
        service = service_of(name, listener)
        backends = figures.get("backends", {})
        for id_ in (target.id for target in view.targets.get(service, ())):
            one = backends.get(id_, {})
            for key, metric, kind, text in _BACKEND:
                yield Sample(metric, one.get(key, 0), {**labels, "service": service, "backend": id_}, kind, text)


def shown(view: View, reports: Sequence[tuple[int, Mapping[str, Any]]]) -> dict[str, Any]:
    """The document. `reports` is what each worker, by process id, tells of its connections."""
    connections, more = _connections(reports)
    return {
        "listeners": [_listener(view, name) for name in view.config.listen],
        "workers": [
            {"worker": each.number + 1, "pid": each.pid, "age": round(time.monotonic() - each.started, 3)}
            for each in view.workers
        ],
        "workers_replaced": view.replaced,
        "left_out": list(view.left_out),
        "connections": connections,
        "more_connections": more,
    }


def _listener(view: View, name: str) -> dict[str, Any]:
    listener = view.config.listen[name]
    service = service_of(name, listener)
    figures = view.figures.get("listeners", {}).get(name, {})
    backends = figures.get("backends", {})
    return {
        "name": name,
        "service": service,
        "addresses": [
            {"address": bind, "open": bind in view.listening, "problem": view.not_listening.get(bind)}
            for bind in listener.bind
        ],
        "known": service in view.targets,
        **{key: figures.get(key, 0) for key, *_ in _LISTENER},
        "rejected": dict(figures.get("rejected", {})),
        "backends": [
            {
                **target.told(),
                "state": backends.get(target.id, {}).get("state", "usable"),
                **{key: backends.get(target.id, {}).get(key, 0) for key, *_ in _BACKEND},
            }
            for target in view.targets.get(service, ())
        ],
    }


def _connections(reports: Iterable[tuple[int, Mapping[str, Any]]]) -> tuple[list[dict[str, Any]], int]:
    """The oldest connections that the workers report one by one, and the number of the others."""
    connections: list[dict[str, Any]] = []
    more = 0
    for pid, report in reports:
        connections += [{**each, "pid": pid} for each in report.get("connections", ())]
        more += int(report.get("more", 0))
    connections.sort(key=lambda each: -float(each.get("age", 0)))
    return connections[:MOST_CONNECTIONS], more + max(0, len(connections) - MOST_CONNECTIONS)
