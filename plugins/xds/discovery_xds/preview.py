"""The resources of clients as text for people: listeners with their routes, and services with their backends; pure."""

import difflib
from collections.abc import Callable

from discovery import Backend, Snapshot, Update, join_host_port
from discovery.fields import has_labels
from discovery.routing import group_by_address, routes
from discovery_xds.config import ServiceConfig, XdsConfig
from discovery_xds.resources.claims import claims_of


def preview(config: XdsConfig, update: Update) -> str:
    """Return the changes of listeners, routes and services as a diff, and the problems as comments."""
    before, _ = _listing(config, update.previous, update.addresses_of) if update.previous is not None else ([], {})
    after, problems = _listing(config, update.snapshot, update.addresses_of)
    changes = difflib.unified_diff(before, after, "served", "to be served")
    return "".join((*(f"# {what}: {reason}\n" for what, reason in problems.items()), *changes))


def _listing(
    config: XdsConfig, snapshot: Snapshot, addresses_of: Callable[[Backend], tuple[str, ...]]
) -> tuple[list[str], dict[str, str]]:
    configs = config.services or dict.fromkeys(snapshot.services, ServiceConfig())
    claims, problems = claims_of(config, configs)
    tls = config.listeners
    lines = []
    for bind, group in group_by_address(claims).items():
        lines.append(f"listener {bind} ({group[0].mode}{', TLS' if tls[bind].certificates else ''})")
        lines += [f"  {route.host} {route.path} -> {route.service}" for route in routes(group)]
    for name, each in configs.items():
        lines.append(f"service {name} ({each.balance}), for gRPC clients xds:///{name}")
        service = snapshot.services.get(each.service or name)
        for backend in service.backends if service is not None else ():
            if has_labels(backend.labels, each.labels):
                lines.append(f"  {_backend(backend, addresses_of(backend))}")
    return [f"{line}\n" for line in lines], problems


def _backend(backend: Backend, addresses: tuple[str, ...]) -> str:
    if not backend.accepts_work:
        return f"{backend.id} {backend.address} (no new connections)"
    at = ", ".join(join_host_port(address, backend.port) for address in addresses) or f"{backend.address} (no address)"
    return f"{backend.id} {at} weight {backend.weight}"
