"""Rendering of haproxy.cfg from the configuration and a snapshot: a pure function, except for reading templates.

The built-in template is rendered in parts, one for each service, so that a change renders the changed services alone. A
user's own template is rendered as a whole, and its unchanged sections are not parsed again.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from discovery import Backend, Snapshot
from discovery_haproxy.options.config import HAProxyConfig
from discovery_haproxy.options.holding import MOST_FREE
from discovery_haproxy.options.values import bind_address
from discovery_haproxy.rendering.execution import run, templates_of
from discovery_haproxy.rendering.frontends import FrontendSection, route_entries
from discovery_haproxy.rendering.held_files import Held, hold
from discovery_haproxy.rendering.includes import included_part
from discovery_haproxy.rendering.incremental import Memo, by_identity
from discovery_haproxy.rendering.own_sections import OwnSections
from discovery_haproxy.rendering.parts import (
    Part,
    ServiceParts,
    Surroundings,
    front_part,
    makes_requests,
    own_part,
    with_defaults,
)
from discovery_haproxy.rendering.quoting import Raw, expression_argument
from discovery_haproxy.rendering.route_map import route_map
from discovery_haproxy.rendering.sections import SectionBuilder, Sections
from discovery_haproxy.rendering.servers import AddressesOf, registered_host
from discovery_haproxy.text.chunks import (
    AnyChunk,
    Block,
    Chunk,
    blocks_of,
    configuration_of,
    listeners_of,
    parsed_in_turn,
    split,
)
from discovery_haproxy.text.configuration import Configuration
from discovery_haproxy.text.generation import DESCRIPTION, Marker, reload_part
from discovery_haproxy.text.neighbours import NO_NEIGHBOURS, Neighbours

_WATCHES_BY_ITSELF = (2, 8)
"""HAProxy's version from which a frontend notices clients that leave as the section that gets the request wants."""
_PLACEHOLDER = "cfg-not-yet-known"
_BIND = re.compile(r"^[ \t]*bind[ \t]+(\S+)", re.MULTILINE)
_NAMED = re.compile(
    r"^[ \t]*server(?:-template)?[ \t]+\S+[ \t]+(?!(?:[0-9.]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]+)?(?!\S))", re.MULTILINE
)
"""A server whose address is not, as far as can be seen, an IP address."""
_HASH_CHARACTERS = 16
"""Hexadecimal characters of the hash in a generation: 64 bits, so that no two generations are equal by chance."""


class Runtime(NamedTuple):
    """Facts about the HAProxy that will read the configuration: sockets, files, version and environment.

    `resolv_conf` is True if /etc/resolv.conf can be read, `alone` if HAProxy reads no other configuration file.
    `route_map` is the path of the map of routes, `peers_socket` that of the socket through which a worker passes its
    stick tables on; None if it does not. `marker` is the line that names the generation. `neighbours` are the files
    beside the configuration if that is a fragment; else None.
    """

    stats_socket: Path | None = None
    version: tuple[int, ...] = (2, 6)
    state_file: Path | None = None
    resolv_conf: bool = True
    alone: bool = False
    route_map: Path = Path("/run/discovery/haproxy.routes.map")
    peers_socket: Path | None = None
    marker: Marker = DESCRIPTION
    neighbours: Neighbours | None = None


@dataclass(frozen=True)
class Rendered:
    """A rendered configuration."""

    chunks: tuple[AnyChunk, ...]
    """The text in parts. Parts that did not change are the objects of the rendering before."""
    generation: str
    """Hash of the text and of the files that the text names, in the form that the module `generation` describes."""
    maps: Mapping[Path, str]
    """Contents of the map files that the text names, by path: installed together with the text."""
    files: tuple[Path, ...]
    mappings: tuple[str, ...]
    """One line for each route, for people: `web  http 127.0.0.1:8080 -> 2 backends`."""
    problems: tuple[str, ...]
    """One line for each omission, with the reason."""
    sections: Sections
    neighbours: Neighbours = NO_NEIGHBOURS
    """The files that HAProxy loads beside the text."""

    @cached_property
    def text(self) -> str:
        """The text as a whole."""
        return "".join(chunk.text for chunk in self.chunks)

    @property
    def data(self) -> tuple[bytes, ...]:
        """The text in parts, as it is written to the file."""
        return tuple(chunk.data for chunk in self.chunks)

    @cached_property
    def configuration(self) -> Configuration:
        """The text as parsed."""
        return configuration_of(self.chunks, self.neighbours.inherited)

    @cached_property
    def listeners(self) -> tuple[str, ...]:
        """All addresses to listen on in HAProxy's syntax, see `listeners_in`, whatever their form."""
        return listeners_of(self.chunks)

    @cached_property
    def binds(self) -> tuple[str, ...]:
        """All addresses to listen on: `HOST:PORT`, `[IPV6]:PORT`, or the path of a socket."""
        return _binds(self.text)

    def with_maps_at(self, places: Mapping[Path, str]) -> tuple[bytes, ...]:
        """Return the text with other places of map files, in parts."""
        found = tuple(
            (str(expression_argument(path)), str(expression_argument(place))) for path, place in places.items()
        )
        return tuple(_replaced(chunk, found) for chunk in self.chunks)


def _replaced(chunk: AnyChunk, places: Iterable[tuple[str, str]]) -> bytes:
    data = chunk.data
    for old, new in places:
        data = data.replace(old.encode(), new.encode())
    return data


class Renderer:
    """Renders configuration after configuration. What is equal in consecutive configurations is rendered once."""

    def __init__(self) -> None:
        """Begin without a configuration."""
        self.own_sections = OwnSections()
        """The names of the user's own sections."""
        self._sections = SectionBuilder()
        self._maps = Memo[str]()
        self._fronts = Memo[Part]()
        self._services = ServiceParts()
        self._includes = Memo[Part]()
        self._held = Memo[Held]()
        self._heads = Memo[str]()
        self._last_split: tuple[str, tuple[Chunk, ...]] = "", ()
        """The text that was last split, and its chunks."""
        self._blocks: tuple[Block, ...] = ()
        self._marked: tuple[AnyChunk, str, Chunk] | None = None
        """A chunk without generation, the part of the generation that only a reload changes, and the marked chunk."""

    def render(
        self,
        config: HAProxyConfig,
        snapshot: Snapshot,
        runtime: Runtime,
        file_digests: Mapping[Path, str] | None = None,
        addresses_of: AddressesOf = registered_host,
        *,
        certificates: Mapping[Path, str] | None = None,
        replaced: Mapping[str, tuple[Backend, ...]] | None = None,
        former: AbstractSet[tuple[str, str]] = frozenset(),
        template_directories: tuple[Path, ...] = (),
    ) -> Rendered:
        """Render the configuration. Equal arguments give equal text, whatever was rendered before.

        `file_digests` are the digests of `referenced_files`, `certificates` those of each certificate file among them
        and in directories among them. `addresses_of` returns the addresses of a backend that is registered by host
        name, as the core knows them; the function is not used if HAProxy itself looks host names up.
        `replaced` and `former` are those of `SectionBuilder.build`. `template_directories` are where the template
        includes others from, after its own directory.
        Raises ApplyError, with file and line, for a template that cannot be read or that fails.
        """
        digests = tuple(sorted((file_digests or {}).items()))
        known = registered_host if config.resolve == "haproxy" else addresses_of
        fragment, neighbours = runtime.neighbours is not None, runtime.neighbours or NO_NEIGHBOURS
        taken = self.own_sections.places(config, file_digests or {}, neighbours)
        sections = self._sections.build(config, snapshot, known, replaced, former, runtime.neighbours, taken)
        surroundings = Surroundings(
            expression_argument(runtime.route_map),
            runtime.state_file is not None,
            watches_clients=runtime.version < _WATCHES_BY_ITSELF and _holds(config),
            fragment=fragment,
        )
        context = {
            "config": config,
            "snapshot": snapshot,
            "services": sections.services,
            "frontends": sections.frontends,
            "runtime": runtime,
            "generation": _PLACEHOLDER,
            "route_map": surroundings.route_map,
            "fragment": fragment,
            "watches_clients": surroundings.watches_clients,
            "most_free": MOST_FREE,
        }
        templates = templates_of(config.template, template_directories, digests)
        own, body = config.template, None
        if own is not None:
            body = run(templates, own.name, context, own.parent)
            surroundings = surroundings._replace(resolves=_NAMED.search(body) is not None)
            parts = [own_part(body, surroundings)]
        else:
            parts = self._built_in(config, sections, surroundings)
        file_digests = file_digests or {}
        includes = [(str(path), (path, file_digests.get(path, ""), surroundings)) for path in config.include]
        parts += self._includes.values(includes, included_part)
        requests = not runtime.alone or any(part.requests for part in parts)
        maps = {}
        if any(part.names_map for part in parts):
            maps[runtime.route_map] = self._maps.value((sections.frontends,), _route_map)
        facts = id(config), config, body, digests, tuple((certificates or {}).items()), tuple(maps.items())
        held = self._held.value(facts, _held)
        head_facts = id(config), config, runtime, requests, held.comments, surroundings
        head = self._heads.value(head_facts, _head)
        chunks = self._split(head, parts, whole=own is not None)
        generation = _generation(chunks, neighbours, digests, held.reload_digests)
        return Rendered(
            self._with_generation(chunks, generation),
            generation,
            maps,
            (*referenced_files(config), *neighbours.before, *neighbours.after),
            sections.mappings,
            sections.problems,
            sections,
            neighbours,
        )

    def _built_in(self, config: HAProxyConfig, sections: Sections, surroundings: Surroundings) -> list[Part]:
        """Return the parts of the built-in template, each as the whole template would print it."""
        around = surroundings._replace(is_last=not sections.services)
        # With its identity: options that compare as equal may differ, as in the order of headers.
        front = self._fronts.value((id(config), config, sections.frontends, around), front_part)
        return [front, *self._services.of(sections.services, surroundings)]

    def _split(self, head: str, parts: Iterable[Part], *, whole: bool) -> tuple[AnyChunk, ...]:
        """Return the chunks of the text. With `whole` a section of the head may go on in the first part."""
        chunks = [chunk for part in parts for chunk in part.chunks]
        text = "".join((head, *(chunk.text for chunk in chunks))) if whole else head
        if text is not self._last_split[0]:
            known = {chunk.text: chunk for chunk in self._last_split[1]}
            self._last_split = text, split(text, known)
        found = self._last_split[1]
        if whole:
            return found
        self._blocks = blocks_of(chunks, self._blocks)
        return *found, *self._blocks

    def _with_generation(self, chunks: Sequence[AnyChunk], generation: str) -> tuple[AnyChunk, ...]:
        """Return the chunks with the generation in the place that the head has for it."""
        at = next(number for number, chunk in enumerate(chunks) if _PLACEHOLDER in chunk.text)
        text = chunks[at].text.replace(_PLACEHOLDER, generation, 1)
        of, part = chunks[at], reload_part(generation)
        known = self._marked
        is_alike = known is not None and known[0] is of and known[1] == part
        marked = known[2].alike(text) if known is not None and is_alike else Chunk(text)
        self._marked = of, part, marked
        return *chunks[:at], marked, *chunks[at + 1 :]


def render(
    config: HAProxyConfig,
    snapshot: Snapshot,
    runtime: Runtime,
    file_digests: Mapping[Path, str] | None = None,
    addresses_of: AddressesOf = registered_host,
    *,
    certificates: Mapping[Path, str] | None = None,
) -> Rendered:
    """Render a configuration alone, as `Renderer.render` does."""
    return Renderer().render(config, snapshot, runtime, file_digests, addresses_of, certificates=certificates)


@by_identity
def referenced_files(config: HAProxyConfig) -> tuple[Path, ...]:
    """Return the files that the configuration names: certificates, the template and the option `files`."""
    binds = [bind for service in config.services.values() for bind in service.bind or ()]
    named = {path for bind in (*config.bind, *binds) for path in bind.certificate}
    named |= {*config.files, *config.include}
    named |= {service.sorry_page for service in config.services.values() if service.sorry_page}
    if config.template is not None:
        named.add(config.template)
    named |= password_files(config)
    return tuple(sorted(named))


@by_identity
def _holds(config: HAProxyConfig) -> bool:
    """Report whether requests of a service wait while it has no backend."""
    return any(service.hold for service in config.services.values())


@by_identity
def password_files(config: HAProxyConfig) -> frozenset[Path]:
    """Return the files of names and passwords that the configuration names. No copy of these is kept."""
    of_services = {service.basic_auth.users_file for service in config.services.values() if service.basic_auth}
    of_stats = {config.stats.users_file} if config.stats and config.stats.users_file else set()
    return frozenset(of_services | of_stats)


def _held(
    _identity: int,
    config: HAProxyConfig,
    body: str | None,
    digests: tuple[tuple[Path, str], ...],
    certificates: tuple[tuple[Path, str], ...],
    maps: tuple[tuple[Path, str], ...],
) -> Held:
    return hold(config, body, dict(digests), dict(certificates), dict(maps))


def _head(
    _identity: int, config: HAProxyConfig, runtime: Runtime, requests: bool, comments: str, surroundings: Surroundings
) -> str:
    """Return the text above the parts. `requests` is True if the parts make HAProxy send requests itself."""
    own_lines = (*config.global_lines, *chain.from_iterable(config.sections.values()))
    context = {
        "config": config,
        "runtime": runtime,
        "generation": _PLACEHOLDER,
        "requests": requests or any(map(makes_requests, own_lines)),
        "comments": Raw(comments),
    }
    text = run(templates_of(), "builtin/head.cfg.j2", context)
    return with_defaults(f"{text.strip()}\n\n", surroundings)


def _route_map(frontends: tuple[FrontendSection, ...]) -> str:
    return route_map(route_entries(frontends))


def _generation(chunks: Sequence[AnyChunk], neighbours: Neighbours, digests: object, reload_digests: object) -> str:
    """Return the generation of a configuration with these files, of which only a reload replaces some."""
    fixed = (parsed.digests for parsed in parsed_in_turn(chunks, neighbours.inherited))
    return f"cfg-{_hash(fixed, reload_digests)}-{_hash((chunk.digest for chunk in chunks), digests)}"


def _hash(digests: Iterable[bytes], facts: object) -> str:
    return hashlib.sha256(b"".join(digests) + repr(facts).encode()).hexdigest()[:_HASH_CHARACTERS]


def _binds(text: str) -> tuple[str, ...]:
    found = set()
    for words in _BIND.findall(text):
        for word in words.split(","):
            try:
                found.add(bind_address(f"*{word}" if word.startswith(":") else word))  # HAProxy takes both for one
            except ValueError:
                continue  # a form that only a user's own template contains, such as a range of ports
    return tuple(sorted(found))
