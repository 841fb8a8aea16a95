"""Selection of the backends of a section: a service of the registry, and the labels that its backends must have."""

from collections.abc import Mapping

from discovery import Backend, Service, Snapshot
from discovery.fields import has_labels
from discovery_haproxy.options.config import ServiceConfig


def registered_name(name: str, config: ServiceConfig | None) -> str:
    """Return the name in the registry of the service that feeds the section `name`."""
    return (config.service if config else None) or name


def selected(name: str, config: ServiceConfig | None, snapshot: Snapshot) -> tuple[Backend, ...]:
    """Return the backends of the section `name`, ordered by id. None for `config` selects the service of that name."""
    return selected_from(snapshot.services.get(registered_name(name, config)), config)


def selected_from(service: Service | None, config: ServiceConfig | None) -> tuple[Backend, ...]:
    """Return the backends that a section selects from `service`, which is None if no such service is registered."""
    if service is None:
        return ()
    if config is None or not config.labels:
        return service.backends
    return tuple(backend for backend in service.backends if has_labels(backend.labels, config.labels))


def why_empty(name: str, config: ServiceConfig, service: Service | None) -> str | None:
    """Return why the selection of a section selects nothing, for a person; None if there is none or it does."""
    if (config.service is None and not config.labels) or selected_from(service, config):
        return None
    registered = registered_name(name, config)
    if service is None:
        return f"no service {registered!r} is registered"
    return f"no backend of {registered!r} has {describe(config.labels)}"


def describe(labels: Mapping[str, tuple[str, ...]]) -> str:
    """Return the labels that a backend must have, such as `role=primary, zone=a|b`."""
    return ", ".join(f"{label}={'|'.join(values) or repr('')}" for label, values in labels.items())
