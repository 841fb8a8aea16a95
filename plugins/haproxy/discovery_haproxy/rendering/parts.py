"""Parts of the text of a configuration, each of which is rendered again only if what it follows from changes."""

import re
from typing import NamedTuple

from discovery_haproxy.options.config import HAProxyConfig
from discovery_haproxy.rendering.execution import run, run_block, templates_of
from discovery_haproxy.rendering.frontends import FrontendSection
from discovery_haproxy.rendering.sections import BackendSection
from discovery_haproxy.text.configuration import Chunk, split

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
    fragment: bool = False
    """True if HAProxy reads other files beside the text, in which a `defaults` section would count as well."""


class Part(NamedTuple):
    """A part of the text. `requests` is True if the part makes HAProxy send requests itself."""

    chunks: tuple[Chunk, ...]
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
    context |= {"fragment": surroundings.fragment}
    return part_of(run(templates_of(), BODY, context).lstrip(), surroundings)


def service_part(_identity: int, section: BackendSection, resolve: str, surroundings: Surroundings) -> Part:
    """Return the part of a service: its `backend` section. `resolve` is the option of the instance."""
    context = {"service": section, "config": {"resolve": resolve}}
    return part_of(run_block(templates_of(), BODY, "service", context), surroundings)


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
