"""What clients would be sent, for people: listeners with their routes, and services with their backends; pure."""

from collections.abc import Iterator

from discovery import Backend, Update, join_host_port
from discovery.fields import has_labels
from discovery.routing import group_by_address, routes
from discovery_xds.config import ServiceConfig, XdsConfig
from discovery_xds.resources.claims import claims_of


def preview(config: XdsConfig, update: Update) -> str:
    """Return the listeners and the services, as a diff from an empty configuration."""
    services = update.snapshot.services
    configs = config.services or dict.fromkeys(services, ServiceConfig())
    claims, problems = claims_of(config, configs)
    lines = []
    for bind, group in group_by_address(claims).items():
        lines.append(f"+ listener {bind} ({group[0].mode})")
        lines += [f"+   {route.host} {route.path} -> {route.service}" for route in routes(group)]
    for name, each in configs.items():
        lines.append(f"+ service {name} ({each.balance}), for gRPC clients xds:///{name}")
        service = services.get(each.service or name)
        for backend in service.backends if service is not None else ():
            if has_labels(backend.labels, each.labels):
                lines += _backend(backend, update.addresses_of(backend))
    return "".join(f"{line}\n" for line in (*lines, *(f"# {problem}" for problem in problems)))


def _backend(backend: Backend, addresses: tuple[str, ...]) -> Iterator[str]:
    if not backend.accepts_work:
        yield f"+   {backend.id} {backend.address} (no new connections)"
        return
    at = ", ".join(join_host_port(address, backend.port) for address in addresses) or f"{backend.address} (no address)"
    yield f"+   {backend.id} {at} weight {backend.weight}"
