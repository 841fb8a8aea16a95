"""Names the parts that faults are about. Pure functions."""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from discovery_haproxy.deployment.faults import SETTINGS, STATS, Fault, Part, PartKind
from discovery_haproxy.fallback.forms import Reason
from discovery_haproxy.options.binds import BindConfig
from discovery_haproxy.options.config import HAProxyConfig
from discovery_haproxy.rendering.frontends import FrontendSection
from discovery_haproxy.rendering.sections import BackendSection, Sections
from discovery_haproxy.text.listeners import listeners_in
from discovery_haproxy.text.words import SECTIONS

_PROXY = re.compile(r"\b(?:[Pp]roxy|backend|frontend|server) '([^'/]+)")
_PREFIX = re.compile(r"^line \d+ \(.*?\): ")
"""The line that an alert is about, before the alert's own words."""
_QUOTED = re.compile(r"'([^']+)'")


class Layout(NamedTuple):
    """A rendered configuration: its text, its sections, and the configuration that it was rendered from."""

    text: str
    sections: Sections
    config: HAProxyConfig


def blamed(faults: Iterable[Fault], layout: Layout) -> dict[Part, Reason]:
    """Return the parts that the faults are about, each with the first reason.

    A fault of a line that belongs to no service and no bind is about the settings. A fault that names nothing is about
    no part.
    """
    blame = _Blame(layout)
    found: dict[Part, Reason] = {}
    for fault in faults:
        for part in blame.parts(fault):
            found.setdefault(part, Reason(fault.text, fault.address))
    return found


class _Blame:
    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._lines = layout.text.splitlines()
        self._backends: Mapping[str, BackendSection] = {each.name: each for each in layout.sections.services}
        self._caches = {
            each.cache: Part(PartKind.SERVICE, each.service) for each in layout.sections.services if each.cache
        }
        self._frontends: Mapping[str, FrontendSection] = {each.name: each for each in layout.sections.frontends}

    def parts(self, fault: Fault) -> Iterator[Part]:
        """Yield the parts that a fault is about."""
        if fault.part is not None:
            yield fault.part
        elif fault.address is not None:
            address = fault.address.partition(" ")[0]  # the rest are options
            yield from list(self._claimers(address)) or self._of_own_bind(address)
        elif fault.line is not None and 0 < fault.line <= len(self._lines):
            yield from self._of_line(fault.line - 1, fault.text)
        else:
            for name in _PROXY.findall(fault.text):
                if name in self._backends:
                    yield self._service(name)
                elif name in self._frontends:
                    yield from self._members(self._frontends[name])

    def _of_line(self, index: int, text: str) -> Iterator[Part]:
        words = self._lines[index].split()
        keyword, name = self._section(index)
        if keyword == "backend" and name in self._backends:
            yield self._service(name)
        elif keyword == "frontend" and name in self._frontends:
            if words[:1] == ["bind"]:
                yield from self._of_bind(self._frontends[name], self._lines[index], text)
            else:
                yield from self._of_frontend_line(self._frontends[name], words)
        elif (keyword, name) == ("frontend", "discovery:stats"):
            yield STATS
        elif (header := f"{keyword} {name}") in self._layout.config.sections:
            yield Part(PartKind.SECTION, section=header)
        elif keyword == "cache" and name in self._caches:
            yield self._caches[name]
        else:
            yield SETTINGS

    def _section(self, index: int) -> tuple[str, str]:
        """Return the keyword and the name of the section that the line belongs to."""
        for line in reversed(self._lines[: index + 1]):
            words = line.split()
            if words and SECTIONS.fullmatch(words[0]):
                return words[0], words[1] if len(words) > 1 else ""
        return "", ""

    def _service(self, name: str) -> Part:
        return Part(PartKind.SERVICE, self._backends[name].service)

    def _members(self, frontend: FrontendSection) -> Iterator[Part]:
        """Yield the services of a frontend: those with lines of their own for the frontend, if any has."""
        names = dict.fromkeys(route.service for route in frontend.routes)
        if frontend.default is not None:
            names[frontend.default] = None
        sections = [self._backends[name] for name in names if name in self._backends]
        for section in [each for each in sections if each.config.frontend_lines] or sections:
            yield Part(PartKind.SERVICE, section.service)

    def _of_frontend_line(self, frontend: FrontendSection, words: list[str]) -> Iterator[Part]:
        if words[:1] == ["use_backend"] and len(words) > 1 and words[1] in self._backends:
            yield self._service(words[1])
            return
        members = list(self._members(frontend))
        services = self._layout.config.services
        owners = [
            member
            for member in members
            if member.service in services
            and any(line.split() == words for line in services[member.service].frontend_lines)
        ]
        yield from owners or members

    def _of_bind(self, frontend: FrontendSection, line: str, text: str) -> Iterator[Part]:
        for bind in frontend.binds:
            if bind.address in _addresses(line):
                yield from self._claimers(bind.address, text)
                return
        yield from self._members(frontend)

    def _of_own_bind(self, address: str) -> Iterator[Part]:
        """Yield what the first `bind` line with the address belongs to, a line of the user's own."""
        for index, line in enumerate(self._lines):
            if address in _addresses(line):
                yield from self._of_line(index, "")
                return

    def _claimers(self, address: str, text: str = "") -> Iterator[Part]:
        """Yield the binds of the address: those that the text is about, if the text says so."""
        config = self._layout.config
        if config.stats and address == config.stats.address:
            yield STATS
        claims: dict[Part, BindConfig] = {}
        for name in config.services:
            service = config.services[name]
            for bind in config.bind if service.bind is None else service.bind:
                if bind.address == address:
                    claims[Part(PartKind.BIND, name, address)] = bind
        if not config.services:
            claims = {Part(PartKind.BIND, "", address): bind for bind in config.bind if bind.address == address}
        text = _PREFIX.sub("", text)
        quoted = set(_QUOTED.findall(text))
        about = [part for part, bind in claims.items() if _mentions(bind, text, quoted)]
        yield from about or claims


def _addresses(line: str) -> set[str]:
    return {each.partition(" ")[0] for each in listeners_in(line)}


def _mentions(bind: BindConfig, text: str, quoted: set[str]) -> bool:
    if any(str(path) in text for path in bind.certificate):
        return True
    return bool(quoted & set((bind.options or "").split()))
