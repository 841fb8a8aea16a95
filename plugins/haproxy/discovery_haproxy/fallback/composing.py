"""Composition of a configuration from parts in their present and in earlier forms: pure functions."""

import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from discovery import Backend, Snapshot
from discovery_haproxy.deployment.faults import SETTINGS, STATS, Part, PartKind
from discovery_haproxy.fallback.forms import (
    ACCEPTED,
    ACCEPTED_WITH_FORMER_SERVERS,
    CLOSED,
    EARLIER,
    LEFT_OUT,
    PRESENT,
    WITH_FORMER_SERVERS,
    Choice,
)
from discovery_haproxy.options.binds import BindConfig
from discovery_haproxy.options.config import HAProxyConfig, ServiceConfig, address_claims, check_addresses
from discovery_haproxy.options.http import StatsConfig
from discovery_haproxy.rendering.selection import selected

_ROUTING = ("bind", "hosts", "path_prefix", "maxconn")
"""Options of a service that concern other services of a shared address: always the present ones."""
_SELECTION = ("service", "labels")
"""Options of a service that select the backends, which are always the present ones."""
_NOT_SETTINGS = ("services", "label_routes", "bind", "stats", "sections", "binary", "external")
"""Options of the instance that are parts of their own, or that say which HAProxy to drive."""
_SEPARATORS = re.compile(r"[^A-Za-z0-9_.:-]+")


class Wanted(NamedTuple):
    """The configuration and the snapshot that are to be served."""

    config: HAProxyConfig
    snapshot: Snapshot


class Accepted(NamedTuple):
    """The last accepted form of each part.

    `servers` has the backends that a service's own lines name. `copies` has the paths of the accepted contents of files
    whose present contents differ.
    """

    config: HAProxyConfig
    servers: Mapping[str, tuple[Backend, ...]]
    copies: Mapping[Path, Path]


class Composed(NamedTuple):
    """A configuration and a snapshot to render.

    `replaced` has the backends of the services for which the snapshot does not count. `former` are the backends to
    render in maintenance, by service and id. The services are those of the configuration. `template_directories` are
    where a copy of the user's template includes others from.
    """

    config: HAProxyConfig
    snapshot: Snapshot
    replaced: Mapping[str, tuple[Backend, ...]] = MappingProxyType({})
    former: frozenset[tuple[str, str]] = frozenset()
    template_directories: tuple[Path, ...] = ()


def own_lines(service: ServiceConfig) -> tuple[str, ...]:
    """Return the user's own lines of a service."""
    options = (service.server_options,) if service.server_options else ()
    return (*service.frontend_lines, *service.backend_lines, *options)


def named_servers(service: ServiceConfig, backends: tuple[Backend, ...]) -> tuple[Backend, ...]:
    """Return the backends that the service's own lines may name."""
    words = {word for line in own_lines(service) for word in _SEPARATORS.split(line)}
    return tuple(backend for backend in backends if backend.id in words)


def form_of(wanted: Wanted, accepted: Accepted | None, choice: Choice, part: Part) -> object:
    """Return what a part contributes to the configuration in its chosen form, comparable."""
    return _Composition(wanted, accepted, choice).form(part)


def compose(wanted: Wanted, accepted: Accepted | None, choice: Choice) -> Composed:
    """Return the configuration in which each part has its chosen form.

    Raises ValueError if the chosen forms exclude each other.
    """
    if not choice:
        return Composed(wanted.config, wanted.snapshot)
    return _Composition(wanted, accepted, choice).composed()


def accepted_config(wanted: Wanted, accepted: Accepted | None, choice: Choice) -> HAProxyConfig:
    """Return the configuration whose parts have been accepted, once the chosen forms have been deployed.

    The paths of files are those of the user, not those of copies. A service without an accepted form is missing.
    """
    without_copies = accepted._replace(copies={}) if accepted is not None else None
    composition = _Composition(wanted, without_copies, choice)
    config = composition.composed().config
    services = dict(config.services)
    for part, form in choice.items():
        if part.kind is PartKind.SERVICE and form == LEFT_OUT and part.service in services:
            earlier = accepted.config.services.get(part.service) if accepted is not None else None
            left_out = services.pop(part.service)
            if earlier is not None:
                services[part.service] = earlier.model_copy(update={"bind": left_out.bind})
    sections_out = {part.section for part, form in choice.items() if part.kind is PartKind.SECTION and form == CLOSED}
    earlier_sections = accepted.config.sections if accepted is not None else {}
    kept = {name: lines for name, lines in earlier_sections.items() if name in sections_out}
    return config.model_copy(update={"services": services, "sections": {**config.sections, **kept}})


def earlier_files(accepted: Accepted, choice: Choice) -> frozenset[Path]:
    """Return the files of which the chosen forms use the accepted contents, where the present contents differ."""
    used: set[Path] = set()
    for part, form in choice.items():
        if form == PRESENT:
            continue
        if part.kind is PartKind.BIND:
            used |= {path for bind in binds_of(accepted.config, part.service) for path in bind.certificate}
        if part.kind in (PartKind.SETTINGS, PartKind.SERVICE, PartKind.SECTION):
            used |= set(accepted.config.files)
        if part.kind is PartKind.SETTINGS and accepted.config.template is not None:
            used.add(accepted.config.template)
        if part.kind is PartKind.SETTINGS:
            used |= set(accepted.config.include)
    return frozenset(used & accepted.copies.keys())


def binds_of(config: HAProxyConfig, service: str) -> tuple[BindConfig, ...]:
    """Return the binds of a service, which are the instance's if the service sets none or has no name."""
    if not service:
        return config.bind
    found = config.services.get(service)
    if found is None:
        return ()
    return config.bind if found.bind is None else found.bind


class _Composition:
    """A composition under way."""

    def __init__(self, wanted: Wanted, accepted: Accepted | None, choice: Choice) -> None:
        self._wanted = wanted
        self._accepted = accepted
        self._choice = {part: form for part, form in choice.items() if form != PRESENT}
        self._copies: Mapping[Path, Path] = accepted.copies if accepted is not None else {}

    def composed(self) -> Composed:
        wanted, choice = self._wanted.config, self._choice
        services = dict(wanted.services)
        backends: dict[str, tuple[Backend, ...]] = {}
        former: set[tuple[str, str]] = set()
        for name in sorted({part.service for part in choice if part.service}):
            if name in wanted.services:
                services[name] = self._service(name)
            if self._form_of_service(name) == LEFT_OUT:
                backends[name] = ()
            elif left := self._former_servers(name):
                backends[name] = tuple(sorted((*self._backends(name), *left), key=lambda backend: backend.id))
                former |= {(name, backend.id) for backend in left}
        config = self._settings().model_copy(
            update={
                "services": services,
                "bind": self._open_binds("", wanted.bind),
                "stats": self._stats(),
                "sections": self._sections(),
            }
        )
        check_addresses(config)
        return Composed(config, self._wanted.snapshot, backends, frozenset(former), self._template_directories())

    def _template_directories(self) -> tuple[Path, ...]:
        accepted = self._accepted
        if SETTINGS not in self._choice or accepted is None or accepted.config.template is None:
            return ()
        directory = accepted.config.template.parent
        included = [copy.parent for path, copy in accepted.copies.items() if path.parent == directory]
        return (*included, directory)

    def form(self, part: Part) -> object:
        """Return everything that a part contributes to the configuration, as a value that can be compared."""
        if part == SETTINGS:
            return self._settings()
        if part == STATS:
            return self._stats()
        if part.kind is PartKind.SECTION:
            return self._sections().get(part.section)
        service = self._service(part.service) if part.service in self._wanted.config.services else None
        if part.kind is PartKind.BIND:
            return self._open_binds("", self._wanted.config.bind) if service is None else service.bind
        return service, self._form_of_service(part.service) == LEFT_OUT, self._former_servers(part.service)

    def _settings(self) -> HAProxyConfig:
        wanted, accepted = self._wanted.config, self._accepted
        if SETTINGS not in self._choice or accepted is None:
            return wanted
        earlier = accepted.config
        update: dict[str, Any] = {name: getattr(wanted, name) for name in _NOT_SETTINGS}
        update["files"] = tuple(self._copies.get(path, path) for path in earlier.files)
        update["include"] = tuple(self._copies.get(path, path) for path in earlier.include)
        update["global_lines"] = self._lines(earlier.global_lines)
        update["defaults_lines"] = self._lines(earlier.defaults_lines)
        if earlier.template is not None:
            update["template"] = self._copies.get(earlier.template, earlier.template)
        return earlier.model_copy(update=update)

    def _stats(self) -> StatsConfig | None:
        form = self._choice.get(STATS, PRESENT)
        wanted = self._wanted.config.stats
        if form == PRESENT:
            return wanted
        earlier = self._accepted.config.stats if form == EARLIER and self._accepted is not None else None
        if earlier and wanted and wanted.users_file and not earlier.users_file:  # the earlier form would be open
            return earlier.model_copy(update={"users_file": wanted.users_file})
        return earlier

    def _sections(self) -> dict[str, tuple[str, ...]]:
        """Return the lines of the sections. Accepted lines of services and settings refer to sections of then."""
        earlier = self._accepted.config.sections if self._accepted is not None else {}
        sections = dict(self._wanted.config.sections)
        if any(part.kind in (PartKind.SETTINGS, PartKind.SERVICE) for part in self._choice):
            sections = {**{name: self._lines(lines) for name, lines in earlier.items()}, **sections}
        for part, form in self._choice.items():
            if part.kind is PartKind.SECTION:
                sections.pop(part.section, None)
                if form == EARLIER and part.section in earlier:
                    sections[part.section] = self._lines(earlier[part.section])
        return sections

    def _form_of_service(self, name: str) -> int:
        """Return the form of a service, which is left out if it should have an accepted form and has none.

        An accepted form in tcp mode, which knows no login, is none for a service with a login.
        """
        form = self._choice.get(Part(PartKind.SERVICE, name), PRESENT)
        if form < ACCEPTED:
            return form
        accepted = self._accepted.config.services.get(name) if self._accepted is not None else None
        wanted = self._wanted.config.services.get(name)
        if accepted is None or (wanted is not None and wanted.basic_auth and accepted.mode == "tcp"):
            return LEFT_OUT
        return form

    def _service(self, name: str) -> ServiceConfig:
        form = self._form_of_service(name)
        wanted = self._wanted.config.services[name]
        earlier = self._accepted.config.services.get(name) if self._accepted is not None else None
        if form == LEFT_OUT:
            service = ServiceConfig(mode=wanted.mode, check=None).model_copy(
                update={option: getattr(wanted, option) for option in (*_ROUTING, *_SELECTION)}
            )
        elif form >= ACCEPTED and earlier is not None:
            service = earlier.model_copy(
                update={
                    "frontend_lines": self._lines(earlier.frontend_lines),
                    "backend_lines": self._lines(earlier.backend_lines),
                    "server_options": self._line(earlier.server_options) if earlier.server_options else None,
                }
            )
            service = service.model_copy(update={option: getattr(wanted, option) for option in _SELECTION})
            if wanted.basic_auth and not earlier.basic_auth:  # the earlier form would be open
                service = service.model_copy(update={"basic_auth": wanted.basic_auth})
            if earlier.mode == wanted.mode:  # otherwise hosts or paths may not fit the mode
                service = service.model_copy(update={option: getattr(wanted, option) for option in _ROUTING})
        else:
            service = wanted
        binds = self._wanted.config.bind if service.bind is None else service.bind
        opened = self._open_binds(name, binds)
        return service if opened == binds else service.model_copy(update={"bind": opened})

    def _open_binds(self, name: str, binds: tuple[BindConfig, ...]) -> tuple[BindConfig, ...]:
        forms = {
            part.address: form
            for part, form in self._choice.items()
            if part.kind is PartKind.BIND and part.service == name
        }
        if not forms:
            return binds
        earlier = {bind.address: bind for bind in self._earlier_binds(name)}
        opened = []
        for bind in binds:
            form = forms.get(bind.address, PRESENT)
            if form == PRESENT:
                opened.append(bind)
            elif form == EARLIER and bind.address in earlier:
                opened.append(self._with_copies(earlier[bind.address]))
        present = {bind.address for bind in binds}
        if any(form == EARLIER and address not in earlier for address, form in forms.items() if address in present):
            # A new address cannot be had: the addresses that it replaces stay open.
            taken = {claim.address for claim in address_claims(self._wanted.config)}
            opened += [
                self._with_copies(bind)
                for address, bind in earlier.items()
                if address not in taken and address not in present and address not in forms
            ]
        return tuple(opened)

    def _earlier_binds(self, name: str) -> tuple[BindConfig, ...]:
        return binds_of(self._accepted.config, name) if self._accepted is not None else ()

    def _with_copies(self, bind: BindConfig) -> BindConfig:
        certificate = tuple(self._copies.get(path, path) for path in bind.certificate)
        return bind if certificate == bind.certificate else bind.model_copy(update={"certificate": certificate})

    def _lines(self, lines: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(map(self._line, lines))

    def _line(self, line: str) -> str:
        """Return a line that names the copies of files."""
        words = re.split(r"(\s+)", line)
        paths = {str(path): str(copy) for path, copy in self._copies.items()}
        return "".join(paths.get(word, word) for word in words)

    def _backends(self, name: str) -> tuple[Backend, ...]:
        return selected(name, self._wanted.config.services.get(name), self._wanted.snapshot)

    def _former_servers(self, name: str) -> tuple[Backend, ...]:
        """Return the servers that have left and that the form of the service keeps."""
        if self._form_of_service(name) not in (WITH_FORMER_SERVERS, ACCEPTED_WITH_FORMER_SERVERS):
            return ()
        present = {backend.id for backend in self._backends(name)}
        servers = self._accepted.servers.get(name, ()) if self._accepted is not None else ()
        return tuple(backend for backend in servers if backend.id not in present)
