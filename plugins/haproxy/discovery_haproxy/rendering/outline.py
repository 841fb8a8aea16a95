"""Sections of haproxy.cfg without their servers, computed from the options and the names of the registered services."""

from collections.abc import Mapping
from typing import NamedTuple

from discovery.fields import is_service_name
from discovery_haproxy.options.config import HAProxyConfig, ServiceConfig
from discovery_haproxy.options.holding import attempts
from discovery_haproxy.options.values import TIME
from discovery_haproxy.rendering.fragment import defaults_by_mode, lines_of_a_fragment, services_beside
from discovery_haproxy.rendering.frontends import FrontendSection, TimeoutLines, frontends_of, timeout_lines
from discovery_haproxy.rendering.names import QUOTED_CHARACTERS, accepted_names
from discovery_haproxy.rendering.selection import registered_name
from discovery_haproxy.rendering.servers import Traits
from discovery_haproxy.text.neighbours import Neighbours

_BACKEND_TIMEOUTS = ("connect", "server", "queue", "tunnel", "check", "server_fin")
_NO_OPTIONS = ServiceConfig()
"""Options of a service that is not configured."""


class Outline(NamedTuple):
    """What follows from the options and the names of the registered services alone."""

    services: tuple["ServiceOutline", ...]
    registered: tuple[str, ...]
    """The names in the registry of `services`."""
    initially_down: frozenset[str]
    """Names of the sections whose servers get no traffic before a check has passed."""
    frontends: tuple[FrontendSection, ...]
    mappings: tuple[tuple[str, str], ...]
    problems: tuple[str, ...]


class ServiceOutline(NamedTuple):
    """A `backend` section without its servers. `registered` is the name of the service in the registry."""

    service: str
    section: str
    registered: str
    identity: int
    """Identity of `config`: options that compare as equal may differ, as in the order of headers."""
    traits: Traits
    config: ServiceConfig
    timeouts: TimeoutLines
    parent: str
    lines: tuple[str, ...]
    named: tuple[str, ...]
    """Servers that other files name."""
    retries: int | None
    """Attempts of a request; None for those of the instance."""


def outline_of(
    _identity: int,
    config: HAProxyConfig,
    registered: tuple[str, ...],
    neighbours: Neighbours | None,
    taken: Mapping[str, str],
) -> Outline:
    """Return the outline. `registered` are the registered services if they, and no options, decide which there are.

    `neighbours` are the files beside a fragment. `taken` has the places of the user's own sections by their names.
    """
    problems: list[str] = []
    services: Mapping[str, ServiceConfig] = config.services
    if config.serves_by_name:
        services = dict.fromkeys(_valid_services(registered, taken, problems), _NO_OPTIONS)
    parents: Mapping[str, str] = {}
    lines: tuple[str, ...] = ()
    if neighbours is not None:
        services = services_beside(services, neighbours, problems)
        parents = defaults_by_mode(services, neighbours, problems)
        lines = lines_of_a_fragment(config)
    names = accepted_names(services)
    frontends = frontends_of(config, services, names)
    mappings = frontends.mappings
    if neighbours is not None:
        routed = {service for service, _ in mappings}
        mappings += tuple(
            (name, f"{name}  {services[name].mode} backend -> ") for name in sorted(services) if name not in routed
        )
    ordered = sorted(services)
    return Outline(
        tuple(
            ServiceOutline(
                name,
                names[name],
                registered_name(name, services[name]),
                id(services[name]),
                Traits.of(services[name], lookup=config.resolve == "haproxy"),
                services[name],
                _backend_timeouts(services[name], config),
                parents.get(services[name].mode, ""),
                lines,
                neighbours.servers.get(name, ()) if neighbours is not None else (),
                _retries(services[name], config),
            )
            for name in ordered
        ),
        tuple(registered_name(name, services[name]) for name in ordered),
        frozenset(names[name] for name in ordered if _begins_down(services[name])),
        frontends.sections,
        mappings,
        (*problems, *frontends.problems),
    )


def _retries(service: ServiceConfig, config: HAProxyConfig) -> int | None:
    if not service.hold:
        return None
    connect = TIME.parse(service.timeouts.connect or config.timeouts.connect)
    return max(config.retries, attempts(service.hold, connect))


def _begins_down(service: ServiceConfig) -> bool:
    return service.check is not None and service.check.init_state == "down"


def _valid_services(registered: tuple[str, ...], taken: Mapping[str, str], problems: list[str]) -> list[str]:
    """Return the registered services whose names can stand in a condition, and as the name of a section."""
    valid = [service for service in registered if is_service_name(service)]
    invalid = sorted({*registered} - {*valid})
    problems += [
        f"service {service[:QUOTED_CHARACTERS]!r} is left out: that is not a valid service name" for service in invalid
    ]
    problems += [
        f"service {service!r} is left out: {taken[service]} has a section of that name"
        for service in valid
        if service in taken
    ]
    return [service for service in valid if service not in taken]


def _backend_timeouts(service: ServiceConfig, config: HAProxyConfig) -> TimeoutLines:
    """Return the timeouts of a service. If no option sets the timeout of checks, it follows from their interval.

    The sections of a fragment have no `defaults` section with the timeouts of the instance.
    """
    timeouts = timeout_lines(service.timeouts, _BACKEND_TIMEOUTS)
    if config.is_fragment:
        common = config.timeouts.model_fields_set - service.timeouts.model_fields_set
        timeouts += timeout_lines(config.timeouts, [kind for kind in _BACKEND_TIMEOUTS if kind in common])
    if service.check is None or service.timeouts.check is not None or "check" in config.timeouts.model_fields_set:
        return timeouts
    return (*timeouts, ("check", service.check.timeout))
