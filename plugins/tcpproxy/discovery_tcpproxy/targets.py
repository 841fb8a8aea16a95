"""From a snapshot and a configuration to what the workers are told: plain data, nothing that is open or resolved.

Standard forms throughout: an address is `IPV4:PORT`, `[IPV6]:PORT` or `unix:/PATH`.
"""

import ipaddress
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from discovery.codec import parse_address
from discovery.model import Backend, Snapshot, State
from discovery_tcpproxy.config import ListenConfig, TcpProxyConfig, service_of


@dataclass(frozen=True, slots=True)
class Target:
    """A backend as a worker is told of it; `host` is an IP address."""

    id: str
    host: str
    port: int
    weight: int
    draining: bool

    def told(self) -> dict[str, Any]:
        """As it goes over the wire."""
        return {
            "id": self.id,
            "host": self.host,
            "port": self.port,
            "weight": self.weight,
            "draining": self.draining,
        }


Targets = Mapping[str, tuple[Target, ...]]
"""The backends of each service that a listener is for. A service without any is there, too, if that is known."""


def services(config: TcpProxyConfig) -> tuple[str, ...]:
    """The services that listeners are for, each once."""
    return tuple(dict.fromkeys(service_of(name, listener) for name, listener in config.listen.items()))


def names_to_resolve(config: TcpProxyConfig, snapshot: Snapshot | None) -> frozenset[str]:
    """The host names among the backends of the services that are asked for."""
    return frozenset(backend.host for backend in _wanted(config, snapshot) if not is_address(backend.host))


def names_of(
    config: TcpProxyConfig, snapshot: Snapshot | None, backends: Collection[tuple[str, str]]
) -> frozenset[str]:
    """The host names among these backends, each a service and an id."""
    wanted = _wanted(config, snapshot) if backends else ()
    return frozenset(each.host for each in wanted if (each.service, each.id) in backends and not is_address(each.host))


def targets(
    config: TcpProxyConfig, snapshot: Snapshot | None, addresses: Mapping[str, str]
) -> tuple[dict[str, tuple[Target, ...]], tuple[str, ...]]:
    """The backends of every service asked for, and what is wrong: a line for each that had to be left out.

    `addresses` has the IP address of each host name that could be resolved. Without a snapshot nothing is known of the
    registry's services, which is not the same as that they have no backends.
    """
    found: dict[str, list[Target]] = {
        service_of(name, listener): []
        for name, listener in config.listen.items()
        if snapshot is not None or listener.targets
    }
    problems = []
    for backend in _wanted(config, snapshot):
        host = backend.host if is_address(backend.host) else addresses.get(backend.host)
        if host is None:
            problems.append(f"backend {backend.id} of {backend.service} is left out: no address for {backend.host!r}")
            continue
        draining = backend.state is State.DRAINING or backend.weight == 0
        found[backend.service].append(Target(backend.id, host, backend.port, backend.weight, draining))
    return {service: tuple(each) for service, each in found.items()}, tuple(problems)


def changed(before: Targets, now: Targets) -> dict[str, tuple[Target, ...]]:
    """The services that a worker which knows `before` has to be told of."""
    return {service: each for service, each in now.items() if before.get(service) != each}


def settings(config: TcpProxyConfig, worker: int) -> dict[str, dict[str, Any]]:
    """What the worker of that number (from 0) is told of each listener, but for its sockets.

    The keys are those of the configuration. Limits are this worker's share of the whole. `drain` is how many seconds
    connections have once their backend has left, None for ever.
    """
    return {name: _settings(name, listener, config, worker) for name, listener in config.listen.items()}


def share(total: int | None, workers: int, worker: int) -> int | None:
    """A worker's part of a limit; the parts of all add up to it."""
    return None if total is None else total // workers + (worker < total % workers)


def is_address(host: str) -> bool:
    """Whether it is an IP address, not a name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _settings(name: str, listener: ListenConfig, config: TcpProxyConfig, worker: int) -> dict[str, Any]:
    workers = config.workers
    return {
        "service": service_of(name, listener),
        "balance": listener.balance,
        "hold": listener.hold,
        "hold_connections": share(listener.hold_connections, workers, worker),
        "connect_timeout": listener.connect_timeout,
        "retries": listener.retries,
        "idle_timeout": listener.idle_timeout,
        "drain": listener.closes_after,
        "max_connections": share(listener.max_connections, workers, worker),
        "max_connections_per_client": share(listener.max_connections_per_client, workers, worker),
        "allow": list(listener.allow),
        "deny": list(listener.deny),
        "accept_proxy": list(listener.accept_proxy),
        "accept_proxy_timeout": listener.accept_proxy_timeout,
        "send_proxy": listener.send_proxy,
        "access_log": config.access_log,
    }


def preview(config: TcpProxyConfig, snapshot: Snapshot) -> str:
    """Each listener with what it would carry connections to, as a diff from nothing."""
    found, problems = targets(config, snapshot, {name: name for name in names_to_resolve(config, snapshot)})
    lines = []
    for name, listener in config.listen.items():
        lines.append(f"+ {name}: {', '.join(listener.bind)}")
        for each in found[service_of(name, listener)]:
            host = f"[{each.host}]" if ":" in each.host else each.host
            lines.append(f"+   {each.id} {host}:{each.port}" + (" (draining)" if each.draining else ""))
    return "".join(f"{line}\n" for line in (*lines, *(f"# {problem}" for problem in problems)))


def _wanted(config: TcpProxyConfig, snapshot: Snapshot | None) -> Iterable[Backend]:
    for name in services(config) if snapshot is not None else ():
        service = snapshot.services.get(name) if snapshot is not None else None
        if service is not None:
            yield from service.backends
    for name, listener in config.listen.items():
        for target in listener.targets:
            yield Backend(service_of(name, listener), target, *parse_address(target))
