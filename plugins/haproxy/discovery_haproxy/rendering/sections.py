"""Sections of haproxy.cfg as data for the templates, computed from the configuration and a snapshot.

A backend that HAProxy would refuse is left out, with the reason, so that the other backends are served.
"""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from itertools import chain
from typing import NamedTuple

from discovery import Backend, RecordError, Service, Snapshot
from discovery.fields import is_service_name
from discovery.registry import validate
from discovery_haproxy.options.config import HAProxyConfig, ServiceConfig
from discovery_haproxy.rendering.fragment import (
    defaults_by_mode,
    lines_of_a_fragment,
    missing_server_line,
    services_beside,
)
from discovery_haproxy.rendering.frontends import FrontendSection, TimeoutLines, frontends_of, timeout_lines
from discovery_haproxy.rendering.incremental import Memo
from discovery_haproxy.rendering.names import accepted_names, cache_name
from discovery_haproxy.rendering.quoting import Raw
from discovery_haproxy.rendering.selection import describe, registered_name, selected_from, why_empty
from discovery_haproxy.rendering.servers import AddressesOf, Server, registered_host, server_lines, servers_of
from discovery_haproxy.text.neighbours import Neighbours

_BACKEND_TIMEOUTS = ("connect", "server", "queue", "tunnel", "check", "server_fin")
_QUOTED_CHARACTERS = 200
"""Characters of a name from the registry in a message, which is one line."""
_NO_OPTIONS = ServiceConfig()
"""Options of a service that is not configured."""


class BackendSection(NamedTuple):
    """A `backend` section, which serves `service`. `timeouts` are the service's own.

    `parent` is the name of the `defaults` section to inherit from, if that is another than the last. `lines` are those
    that a fragment has instead of a `defaults` section. `missing` are servers that other files name, and that are not
    registered.
    """

    name: str
    mode: str
    backends: tuple[Server, ...]
    config: ServiceConfig
    timeouts: TimeoutLines = ()
    service: str = ""
    parent: str = ""
    lines: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()

    @property
    def cache(self) -> str:
        """Name of the `cache` section of the service; empty if the service has none."""
        return cache_name(self.name) if self.config.cache else ""

    def server_lines(self, resolve: str) -> Raw:
        """Return the `server` lines. `resolve` is the instance's option."""
        lines = server_lines(self.backends, cookie=self.config.cookie is not None, lookup=resolve == "haproxy")
        return Raw("".join((lines, *map(missing_server_line, self.missing)))) if self.missing else lines


class Sections(NamedTuple):
    """All sections. `mappings` describes each route for people, `problems` each omission and its reason."""

    frontends: tuple[FrontendSection, ...]
    services: tuple[BackendSection, ...]
    mappings: tuple[str, ...]
    problems: tuple[str, ...]


class _Outline(NamedTuple):
    """What follows from the options and the names of the registered services alone."""

    services: tuple["_ServiceOutline", ...]
    frontends: tuple[FrontendSection, ...]
    mappings: tuple[tuple[str, str], ...]
    problems: tuple[str, ...]


class _ServiceOutline(NamedTuple):
    """A `backend` section without its servers. `registered` is the name of the service in the registry."""

    service: str
    section: str
    registered: str
    identity: int
    """Identity of `config`: options that compare as equal may differ, as in the order of headers."""
    config: ServiceConfig
    timeouts: TimeoutLines
    parent: str
    lines: tuple[str, ...]
    named: tuple[str, ...]
    """Servers that other files name."""


class _Selection(NamedTuple):
    """The valid backends of a section. `named` are those that are registered by host name."""

    backends: tuple[Backend, ...]
    named: tuple[Backend, ...]
    problems: tuple[str, ...]


class _Built(NamedTuple):
    """A section, the end of the line about each of its routes, and its problems."""

    section: BackendSection
    summary: str
    problems: tuple[str, ...]


class SectionBuilder:
    """Computes the sections for one snapshot after another. The section of an unchanged service is the same object."""

    def __init__(self) -> None:
        """Begin without a snapshot."""
        self._outlines = Memo[_Outline]()
        self._selections = Memo[_Selection]()
        self._sections = Memo[_Built]()

    def build(
        self,
        config: HAProxyConfig,
        snapshot: Snapshot,
        addresses_of: AddressesOf = registered_host,
        replaced: Mapping[str, tuple[Backend, ...]] | None = None,
        former: AbstractSet[tuple[str, str]] = frozenset(),
        neighbours: Neighbours | None = None,
    ) -> Sections:
        """Compute the sections for a snapshot.

        `addresses_of` returns the addresses to use for a backend. `replaced` has the backends of the services for which
        the snapshot does not count, and `former` the backends, by service and id, that have no address now. The
        services are those of the configuration. `neighbours` are the files beside a fragment.
        """
        registered = () if config.services else tuple(snapshot.services)
        # With its identity: options that compare as equal may differ in which of them are set.
        outline = self._outlines.value((id(config), config, registered, neighbours), _outline)
        services, instead = snapshot.services, replaced or {}
        selections = self._selections.values(
            (
                (each.service, (each, services.get(each.registered), instead.get(each.service)))
                for each in outline.services
            ),
            _select,
        )
        built = self._sections.values(
            (
                (
                    each.service,
                    (
                        each,
                        selection,
                        tuple(map(addresses_of, selection.named)),
                        _ids_of(each.service, former) if former else former,
                    ),
                )
                for each, selection in zip(outline.services, selections, strict=True)
            ),
            _build,
        )
        summaries = {each.section.service: each.summary for each in built}
        return Sections(
            outline.frontends,
            tuple(each.section for each in built),
            tuple(f"{begin}{summaries[service]}" for service, begin in outline.mappings),
            (*outline.problems, *chain.from_iterable(each.problems for each in built)),
        )


def build_sections(
    config: HAProxyConfig,
    snapshot: Snapshot,
    addresses_of: AddressesOf = registered_host,
) -> Sections:
    """Compute the sections for a snapshot alone, as `SectionBuilder` does."""
    return SectionBuilder().build(config, snapshot, addresses_of)


def _outline(
    _identity: int, config: HAProxyConfig, registered: tuple[str, ...], neighbours: Neighbours | None
) -> _Outline:
    problems: list[str] = []
    services: Mapping[str, ServiceConfig] = config.services or dict.fromkeys(
        _valid_services(registered, problems), _NO_OPTIONS
    )
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
    return _Outline(
        tuple(
            _ServiceOutline(
                name,
                names[name],
                registered_name(name, services[name]),
                id(services[name]),
                services[name],
                _backend_timeouts(services[name], config),
                parents.get(services[name].mode, ""),
                lines,
                neighbours.servers.get(name, ()) if neighbours is not None else (),
            )
            for name in sorted(services)
        ),
        frontends.sections,
        mappings,
        (*problems, *frontends.problems),
    )


def _valid_services(registered: tuple[str, ...], problems: list[str]) -> list[str]:
    """Return the registered services whose names can stand in a condition and as a section's name."""
    valid = [service for service in registered if is_service_name(service)]
    invalid = sorted({*registered} - {*valid})
    problems += [
        f"service {service[:_QUOTED_CHARACTERS]!r} is left out: that is not a valid service name" for service in invalid
    ]
    return valid


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


def _select(outline: _ServiceOutline, service: Service | None, replaced: tuple[Backend, ...] | None) -> _Selection:
    problems: list[str] = []
    chosen = selected_from(service, outline.config) if replaced is None else replaced
    valid = _valid_backends(chosen, problems)
    if replaced is None and (reason := why_empty(outline.service, outline.config, service)):
        problems.append(f"service {outline.service!r} has no backends: {reason}")
    return _Selection(valid, tuple(backend for backend in valid if backend.is_named), tuple(problems))


def _valid_backends(backends: tuple[Backend, ...], problems: list[str]) -> tuple[Backend, ...]:
    valid = []
    for backend in backends:
        try:
            valid.append(validate(backend))
        except RecordError as error:
            id_, name = backend.id[:_QUOTED_CHARACTERS], backend.service[:_QUOTED_CHARACTERS]
            problems.append(f"backend {id_!r} of {name!r} is left out: {error}")
    return tuple(valid)


def _ids_of(service: str, former: AbstractSet[tuple[str, str]]) -> frozenset[str]:
    return frozenset(id_ for of, id_ in former if of == service)


def _build(
    outline: _ServiceOutline,
    selection: _Selection,
    addresses: tuple[Sequence[str], ...],
    former: AbstractSet[str],
) -> _Built:
    found = {backend.id: known for backend, known in zip(selection.named, addresses, strict=True)}

    def addresses_of(backend: Backend) -> Sequence[str]:
        return () if backend.id in former else found.get(backend.id, (backend.host,))

    problems: list[str] = []
    servers = servers_of(selection.backends, outline.config, addresses_of, problems)
    section = BackendSection(
        outline.section,
        outline.config.mode,
        servers,
        outline.config,
        outline.timeouts,
        outline.service,
        outline.parent,
        outline.lines,
        tuple(name for name in outline.named if name not in {server.id for server in servers}) if outline.named else (),
    )
    return _Built(section, _summary(section), (*selection.problems, *problems))


def _summary(section: BackendSection) -> str:
    count = len(section.backends)
    selection = _selection(section.service, section.config)
    unknown = sum(not server.usable for server in section.backends)
    but = f", {unknown} without an address" if unknown else ""
    backups = sum(server.backup for server in section.backends)
    but += f", {backups} backup{'' if backups == 1 else 's'}" if backups else ""
    return f"{count} backend{'' if count == 1 else 's'}{selection}{but}"


def _selection(name: str, config: ServiceConfig) -> str:
    """Return the service and the labels that the backends are selected by; empty if no option selects."""
    registered = f" of {registered_name(name, config)}" if config.service is not None or config.labels else ""
    return f"{registered} with {describe(config.labels)}" if config.labels else registered
