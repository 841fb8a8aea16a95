"""Parts of the text of a configuration, each of which is rendered again only if what it follows from changes."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from discovery_haproxy.options.config import HAProxyConfig
from discovery_haproxy.options.holding import MOST_FREE
from discovery_haproxy.rendering.execution import run, run_block, templates_of
from discovery_haproxy.rendering.frontends import FrontendSection
from discovery_haproxy.rendering.incremental import Row
from discovery_haproxy.rendering.sections import BackendSection
from discovery_haproxy.text.chunks import Chunk, ServersChunk, split

BODY = "builtin/haproxy.cfg.j2"
"""The built-in template of everything below the head."""
_DEFAULTS = re.compile(r"^[ \t]*defaults(?=\s).*$", re.MULTILINE)
_REQUESTS = re.compile(r"^[ \t\"']*(?:lua-|acme\b|httpclient\.)|\b(?:ocsp|crt-list\b)", re.MULTILINE)
"""Directives that make HAProxy send HTTP requests itself. The file of a `crt-list` may contain `ocsp-update`."""
_REQUEST_WORDS = ("lua-", "acme", "httpclient.", "ocsp", "crt-list")
"""Texts of which a directive of `_REQUESTS` contains one, and which are found a hundred times faster."""


class Surroundings(NamedTuple):
    """What a part's text depends on beside its own contents."""

    route_map: str
    """The path of the map of routes, as an argument."""
    keeps_states: bool
    """True if HAProxy loads the states of servers from a file."""
    resolves: bool = False
    """True if HAProxy looks up the host names of all servers. HAProxy deletes no server at run time that has
    `resolvers`."""
    is_last: bool = False
    """True for the last part of the text."""
    watches_clients: bool = False
    """True if the `defaults` section lets frontends notice clients that leave, as HAProxy before 2.8 has to."""
    fragment: bool = False
    """True if HAProxy reads other files beside the text, in which a `defaults` section would count as well."""


class Part(NamedTuple):
    """A part of the text. `requests` is True if the part makes HAProxy send requests itself."""

    chunks: tuple[Chunk | ServersChunk, ...]
    requests: bool
    names_map: bool
    """True if the part contains the path of the map of routes."""


def part_of(text: str, surroundings: Surroundings) -> Part:
    """Return the part with this text."""
    text = with_defaults(f"{text.strip()}\n" if surroundings.is_last else text, surroundings)
    return Part(split(text), makes_requests(text), surroundings.route_map in text)


def own_part(text: str, surroundings: Surroundings) -> Part:
    """Return the part that a user's own template prints, in one chunk. The part is the last."""
    text = with_defaults(f"{text.strip()}\n", surroundings)
    return Part((Chunk(text),), makes_requests(text), surroundings.route_map in text)


def front_part(
    _identity: int, config: HAProxyConfig, frontends: tuple[FrontendSection, ...], surroundings: Surroundings
) -> Part:
    """Return the part of the built-in template above the services: the defaults, the statistics, and the frontends."""
    context = {"config": config, "frontends": frontends, "services": (), "route_map": surroundings.route_map}
    context |= {"fragment": surroundings.fragment, "watches_clients": surroundings.watches_clients}
    return part_of(run(templates_of(), BODY, context).lstrip(), surroundings)


class ServiceParts:
    """Makes the part of each service. The lines beside the servers are rendered again only if they change."""

    def __init__(self) -> None:
        """Begin without a service."""
        self._parts = Row[BackendSection, Part]()
        self._last = Row[BackendSection, Part]()
        self._settings: dict[str, tuple[tuple[object, ...], Part]] = {}

    def of(self, sections: Sequence[BackendSection], surroundings: Surroundings) -> list[Part]:
        """Return the parts of the sections, of which the last is the last part of the text."""
        if len(self._settings) > 2 * len(sections):
            self._settings = {}
        end = surroundings._replace(is_last=True)
        return [
            *self._parts.values(sections[:-1], lambda each: self._part(each, surroundings), surroundings),
            *self._last.values(sections[-1:], lambda each: self._part(each, end), end),
        ]

    def _part(self, section: BackendSection, surroundings: Surroundings) -> Part:
        settings = self._settings_of(section, surroundings._replace(is_last=False))
        *others, head = settings.chunks
        assert isinstance(head, Chunk)  # noqa: S101 - `settings_part` makes no others
        runs = section.line_runs
        if surroundings.is_last and not runs:
            return settings._replace(chunks=(*others, Chunk(f"{head.text.rstrip()}\n")))
        return settings._replace(chunks=(*others, ServersChunk(head, runs, "" if surroundings.is_last else "\n")))

    def _settings_of(self, section: BackendSection, surroundings: Surroundings) -> Part:
        # With its identity: options that compare as equal may differ, as in the order of headers.
        key = id(section.config), section.settings, surroundings
        known = self._settings.get(section.service)
        if known is None or known[0] != key:
            known = self._settings[section.service] = key, settings_part(section.settings, surroundings)
        return known[1]


def settings_part(section: BackendSection, surroundings: Surroundings) -> Part:
    """Return the part of a service without servers, up to the place of their lines."""
    context = {"service": section, "watches_clients": surroundings.watches_clients, "most_free": MOST_FREE}
    text = run_block(templates_of(), BODY, "service", context)
    return part_of(text.removesuffix("\n"), surroundings)  # an empty line is below the servers


def makes_requests(text: str) -> bool:
    """Report whether lines make HAProxy send HTTP requests itself."""
    return any(word in text for word in _REQUEST_WORDS) and _REQUESTS.search(text) is not None


def with_defaults(text: str, surroundings: Surroundings) -> str:
    """Begin every `defaults` section with lines that let HAProxy start although a host name cannot be resolved."""
    if surroundings.fragment or "defaults" not in text:
        return text
    lines = "    default-server init-addr last,none"
    if surroundings.resolves:
        lines += " resolvers discovery"
    if surroundings.keeps_states:
        lines += "\n    load-server-state-from-file global"
    return _DEFAULTS.sub(lambda match: f"{match[0]}\n{lines}", text)
