"""Status of the consumer as samples for Prometheus and as a document for the admin endpoint. Pure."""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from discovery import Sample
from discovery_tcpproxy.config import TcpProxyConfig, service_of
from discovery_tcpproxy.sums import Figures
from discovery_tcpproxy.targets import Targets

MOST_CONNECTIONS = 1000
"""Connections that the document lists, some 200 KiB of JSON; it has the number of the others."""

Kind = Literal["counter", "gauge"]
_SET_ASIDE = frozenset({"set aside", "due", "probed"})
"""States of a backend, in the report of a worker, after a connection that failed and until one succeeds."""
_LISTENER: tuple[tuple[str, str, Kind, str], ...] = (
    ("open", "connections_open", "gauge", "Open client connections"),
    ("total", "connections", "counter", "Accepted client connections"),
    ("holding", "connections_waiting", "gauge", "Clients that wait for a backend"),
    ("held", "held", "counter", "Clients that had to wait for a backend"),
    ("received", "received_bytes", "counter", "Bytes from clients"),
    ("sent", "sent_bytes", "counter", "Bytes to clients"),
    ("connected", "connects", "counter", "Connections established to backends"),
    ("connect_seconds", "connect_seconds", "counter", "Total seconds of these connection attempts"),
    ("connect_failures", "connect_failures", "counter", "Backends that refused a connection or did not answer"),
    ("retries", "retries", "counter", "Connections that were retried at another backend"),
)
_BACKEND: tuple[tuple[str, str, Kind, str], ...] = (
    ("open", "backend_connections_open", "gauge", "Open connections to the backend"),
    ("connected", "backend_connects", "counter", "Connections established to the backend"),
    ("connect_seconds", "backend_connect_seconds", "counter", "Total seconds of these connection attempts"),
    (
        "connect_failures",
        "backend_connect_failures",
        "counter",
        "Connections that the backend refused or did not answer",
    ),
    ("received", "backend_received_bytes", "counter", "Bytes from the backend"),
    ("sent", "backend_sent_bytes", "counter", "Bytes to the backend"),
)


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """A running worker; `started` is a time of `time.monotonic()`."""

    number: int
    pid: int
    started: float


@dataclass(frozen=True, slots=True)
class ProxyStatus:
    """State of the consumer at a moment in time."""

    config: TcpProxyConfig
    listening: frozenset[str]
    not_listening: Mapping[str, str]
    """Error message of each address that is not open."""
    targets: Targets
    left_out: tuple[str, ...]
    figures: Figures
    workers: tuple[WorkerStatus, ...]
    replaced: int


def samples(status: ProxyStatus) -> Iterator[Sample]:
    """Yield the samples. Backends that have left the registry have none."""
    yield Sample("workers", len(status.workers), kind="gauge", help="Running workers")
    yield Sample(
        "workers_replaced",
        status.replaced,
        help="Workers that ended unexpectedly, or were killed because they did not answer",
    )
    yield Sample(
        "access_log_dropped", status.figures.get("dropped", 0), help="Lines of the access log that were dropped"
    )
    for name, listener in status.config.listen.items():
        labels = {"listener": name}
        for bind in listener.bind:
            up = float(bind in status.listening)
            yield Sample("listening", up, {**labels, "address": bind}, "gauge", "1 if the address is open")
        figures = status.figures.get("listeners", {}).get(name, {})
        for key, metric, kind, text in _LISTENER:
            yield Sample(metric, figures.get(key, 0), labels, kind, text)
        for reason, count in sorted(figures.get("rejected", {}).items()):
            yield Sample("rejected", count, {**labels, "reason": reason}, help="Clients that were rejected")
        service = service_of(name, listener)
        backends = figures.get("backends", {})
        for id_ in (target.id for target in status.targets.get(service, ())):
            one = backends.get(id_, {})
            for key, metric, kind, text in _BACKEND:
                yield Sample(metric, one.get(key, 0), {**labels, "service": service, "backend": id_}, kind, text)


def down(status: ProxyStatus) -> dict[str, str]:
    """Return why the workers set backends of the registry aside, by key: the last connection to each has failed.

    A backend that drains, or has weight 0, is left out: it is to get no connections.
    """
    found: dict[str, str] = {}
    for name, listener in status.config.listen.items():
        service = service_of(name, listener)
        backends = {} if listener.targets else status.figures.get("listeners", {}).get(name, {}).get("backends", {})
        aside = {id_: each.get("reason", "") for id_, each in backends.items() if each.get("state") in _SET_ASIDE}
        for each in status.targets.get(service, ()) if aside else ():
            if each.weight and each.id in aside:
                why = aside[each.id] or "it was refused, or not answered"
                found[f"{service}/{each.id}"] = f"listener {name}: the last connection to it failed: {why}"
    return found


def watched(config: TcpProxyConfig) -> frozenset[str]:
    """Return the services of the registry of whose backends the workers tell whether they take connections."""
    return frozenset(service_of(name, each) for name, each in config.listen.items() if not each.targets)


def document(status: ProxyStatus, reports: Sequence[tuple[int, Mapping[str, Any]]]) -> dict[str, Any]:
    """Return the document. `reports` are the reports of the workers with their process ids."""
    connections, more = _connections(reports)
    return {
        "listeners": [_listener(status, name) for name in status.config.listen],
        "workers": [
            {"worker": each.number + 1, "pid": each.pid, "age": round(time.monotonic() - each.started, 3)}
            for each in status.workers
        ],
        "workers_replaced": status.replaced,
        "left_out": list(status.left_out),
        "connections": connections,
        "more_connections": more,
    }


def _listener(status: ProxyStatus, name: str) -> dict[str, Any]:
    listener = status.config.listen[name]
    service = service_of(name, listener)
    figures = status.figures.get("listeners", {}).get(name, {})
    backends = figures.get("backends", {})
    return {
        "name": name,
        "service": service,
        "addresses": [
            {"address": bind, "open": bind in status.listening, "problem": status.not_listening.get(bind)}
            for bind in listener.bind
        ],
        "known": service in status.targets,
        **{key: figures.get(key, 0) for key, *_ in _LISTENER},
        "rejected": dict(figures.get("rejected", {})),
        "backends": [
            {
                **target.to_wire(),
                "state": backends.get(target.id, {}).get("state", "usable"),
                **{key: backends.get(target.id, {}).get(key, 0) for key, *_ in _BACKEND},
            }
            for target in status.targets.get(service, ())
        ],
    }


def _connections(reports: Iterable[tuple[int, Mapping[str, Any]]]) -> tuple[list[dict[str, Any]], int]:
    """Return the oldest connections among those that the workers list, and the number of the others."""
    connections: list[dict[str, Any]] = []
    more = 0
    for pid, report in reports:
        connections += [{**each, "pid": pid} for each in report.get("connections", ())]
        more += int(report.get("more", 0))
    connections.sort(key=lambda each: -float(each.get("age", 0)))
    return connections[:MOST_CONNECTIONS], more + max(0, len(connections) - MOST_CONNECTIONS)
