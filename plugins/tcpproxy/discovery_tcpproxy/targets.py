"""Backends and settings for the workers, computed from a snapshot and the configuration. Pure.

Addresses have the form `IPV4:PORT`, `[IPV6]:PORT` or `unix:/PATH`.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import unified_diff
from typing import Any

from discovery import Addresses, Backend, Endpoint, LeftOut, Snapshot, State, join_host_port, parse_address
from discovery_tcpproxy.config import ListenerConfig, TcpProxyConfig, service_of


@dataclass(frozen=True, slots=True)
class Target:
    """A backend in the form for workers. `host` is an IP address, or a host name with `addresses`."""

    id: str
    host: str
    port: int
    weight: int
    draining: bool
    addresses: tuple[str, ...] = ()

    def to_wire(self) -> dict[str, Any]:
        """Return the backend in the form of the protocol with workers."""
        record = {
            "id": self.id,
            "host": self.host,
            "port": self.port,
            "weight": self.weight,
            "draining": self.draining,
        }
        return {**record, "addresses": list(self.addresses)} if self.addresses else record


Targets = Mapping[str, tuple[Target, ...]]
"""Backends by service. A service without backends is included if the snapshot is known."""


def services(config: TcpProxyConfig) -> tuple[str, ...]:
    """Return the services of the listeners, without duplicates."""
    return tuple(dict.fromkeys(service_of(name, listener) for name, listener in config.listen.items()))


def endpoints(config: TcpProxyConfig, snapshot: Snapshot | None) -> frozenset[Endpoint]:
    """Return the host names with ports of the fixed backends, and of the configured services in the snapshot."""
    return frozenset((each.host, each.port) for each in _wanted(config, snapshot) if each.is_named)


def targets(
    config: TcpProxyConfig, snapshot: Snapshot | None, addresses: Addresses
) -> tuple[dict[str, tuple[Target, ...]], tuple[str, ...]]:
    """Return the backends of every configured service, and a line for each backend that is left out.

    `addresses` are the addresses of host names. Without a snapshot the result has no services of the registry: a
    service whose backends are unknown differs from a service without backends.
    """
    found: dict[str, list[Target]] = {
        service_of(name, listener): []
        for name, listener in config.listen.items()
        if snapshot is not None or listener.targets
    }
    problems = []
    for backend in _wanted(config, snapshot):
        known = addresses.get((backend.host, backend.port), ()) if backend.is_named else ()
        if backend.is_named and not known:
            problems.append(f"backend {backend.id} of {backend.service} is left out: no address for {backend.host!r}")
            continue
        draining = backend.state is State.DRAINING or backend.weight == 0
        target = Target(backend.id, backend.host, backend.port, backend.weight, draining, known)
        found[backend.service].append(target)
    return {service: tuple(each) for service, each in found.items()}, tuple(problems)


def changed(before: Targets, now: Targets) -> dict[str, tuple[Target, ...]]:
    """Return the services that differ from `before`, the state of a worker."""
    return {service: each for service, each in now.items() if before.get(service) != each}


def settings(config: TcpProxyConfig, worker: int) -> dict[str, dict[str, Any]]:
    """Return the settings of each listener for the worker with this number (from 0), without the sockets.

    The keys are those of the configuration. Limits are the share of this worker. `drain` is the seconds that
    connections have after their backend has left, None for no limit.
    """
    return {name: _settings(name, listener, config, worker) for name, listener in config.listen.items()}


def share(total: int | None, workers: int, worker: int) -> int | None:
    """Return the share of a worker in a limit; the shares of all workers add up to the limit."""
    return None if total is None else total // workers + (worker < total % workers)


def _settings(name: str, listener: ListenerConfig, config: TcpProxyConfig, worker: int) -> dict[str, Any]:
    workers = config.workers
    return {
        "service": service_of(name, listener),
        "balance": listener.balance,
        "hold": listener.hold,
        "hold_connections": share(listener.hold_connections, workers, worker),
        "connect_timeout": listener.connect_timeout,
        "retries": listener.retries,
        "idle_timeout": listener.idle_timeout,
        "unacknowledged_timeout": listener.unacknowledged_timeout,
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


def lines_of(config: TcpProxyConfig, known: Targets, backends: Iterable[Backend]) -> dict[str, Sequence[str]]:
    """Return a line for each listener that carries connections to each of `backends`, by key."""
    listeners: dict[str, list[str]] = {}
    for name, listener in config.listen.items():
        if not listener.targets:
            listeners.setdefault(service_of(name, listener), []).append(f"{name} ({', '.join(listener.bind)})")
    found: dict[str, Sequence[str]] = {}
    by_id = {service: {each.id: each for each in known.get(service, ())} for service in listeners}
    for backend in backends:
        target = by_id.get(backend.service, {}).get(backend.id)
        if target is not None:
            found[backend.key] = tuple(f"listener {each} -> {_address(target)}" for each in listeners[backend.service])
        elif backend.service in listeners and backend.is_named:
            found[backend.key] = LeftOut(f"no address is known for {backend.host}")
        else:
            found[backend.key] = ()
    return found


def _address(target: Target) -> str:
    told = ", ".join(join_host_port(each, target.port) for each in target.addresses or (target.host,))
    return f"{told} draining" if target.draining else f"{told} weight {target.weight}"


def preview(config: TcpProxyConfig, snapshot: Snapshot, addresses: Addresses) -> str:
    """Return the listeners with their backends, as a diff from an empty configuration."""
    found, problems = targets(config, snapshot, addresses)
    lines = []
    for name, listener in config.listen.items():
        lines.append(f"+ {name}: {', '.join(listener.bind)}")
        for each in found[service_of(name, listener)]:
            resolved = f" ({', '.join(each.addresses)})" if each.addresses else ""
            at = join_host_port(each.host, each.port)
            lines.append(f"+   {each.id} {at}{resolved}" + (" (draining)" if each.draining else ""))
    return "".join(f"{line}\n" for line in (*lines, *(f"# {problem}" for problem in problems)))


def changes(before: str, after: str) -> str:
    """Return the difference between two answers of `preview`, as a diff; empty if they are equal."""
    lines = (each.splitlines() for each in (before, after))
    old, new = ([line.removeprefix("+ ") for line in each] for each in lines)
    return "".join(f"{line}\n" for line in unified_diff(old, new, "now", "then", lineterm=""))


def _wanted(config: TcpProxyConfig, snapshot: Snapshot | None) -> Iterable[Backend]:
    for name in services(config) if snapshot is not None else ():
        service = snapshot.services.get(name) if snapshot is not None else None
        if service is not None:
            yield from service.backends
    for name, listener in config.listen.items():
        for target in listener.targets:
            yield Backend(service_of(name, listener), target, *parse_address(target))
