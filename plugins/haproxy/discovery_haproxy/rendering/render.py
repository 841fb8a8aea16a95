"""Rendering of haproxy.cfg from the configuration and a snapshot: a pure function, except for reading templates."""

import hashlib
import re
import traceback
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import jinja2

from discovery import ApplyError, Backend, Snapshot
from discovery_haproxy.options.config import HAProxyConfig
from discovery_haproxy.options.values import bind_address
from discovery_haproxy.rendering.held_files import hold
from discovery_haproxy.rendering.quoting import Raw, argument, expression_argument, finalize, raw
from discovery_haproxy.rendering.route_map import route_map
from discovery_haproxy.rendering.sections import Sections, build_sections
from discovery_haproxy.rendering.servers import AddressesOf, registered_host
from discovery_haproxy.rendering.template_cache import TemplateCache
from discovery_haproxy.text.configuration import parse
from discovery_haproxy.text.listeners import listeners_in

_BUILT_IN = Path(__file__).parent / "templates"
_PLACEHOLDER = "cfg-not-yet-known"
_DEFAULTS = re.compile(r"^[ \t]*defaults(?=\s).*$", re.MULTILINE)
_BIND = re.compile(r"^[ \t]*bind[ \t]+(\S+)", re.MULTILINE)
_NAMED = re.compile(
    r"^[ \t]*server(?:-template)?[ \t]+\S+[ \t]+(?!(?:[0-9.]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]+)?(?!\S))", re.MULTILINE
)
"""A server whose address is not, as far as can be seen, an IP address."""
_REQUESTS = re.compile(r"^[ \t\"']*(?:lua-|acme\b|httpclient\.)|\b(?:ocsp|crt-list\b)", re.MULTILINE)
"""Directives that make HAProxy send HTTP requests itself. The file of a `crt-list` may contain `ocsp-update`."""
_HASH_CHARACTERS = 16
"""Hexadecimal characters of the hash in a generation: 64 bits, so that no two generations are equal by chance."""


class Runtime(NamedTuple):
    """Facts about the HAProxy that will read the configuration: sockets, files, version and environment.

    `resolv_conf` is True if /etc/resolv.conf can be read, `alone` if HAProxy reads no other configuration file.
    `route_map` is the path of the map of routes, `peers_socket` that of the socket through which a worker passes its
    stick tables on; None if it does not.
    """

    stats_socket: Path | None = None
    version: tuple[int, ...] = (2, 6)
    state_file: Path | None = None
    resolv_conf: bool = True
    alone: bool = False
    route_map: Path = Path("/run/discovery/haproxy.routes.map")
    peers_socket: Path | None = None


class Rendered(NamedTuple):
    """A rendered configuration."""

    text: str
    generation: str
    """Hash of the text and of the files that the text names, in the form that the module `generation` describes."""
    maps: Mapping[Path, str]
    """Contents of the map files that the text names, by path: installed together with the text."""
    binds: tuple[str, ...]
    """All addresses to listen on: `HOST:PORT`, `[IPV6]:PORT`, or the path of a socket."""
    listeners: tuple[str, ...]
    """All addresses to listen on in HAProxy's syntax, see `listeners_in`, also those that have another form."""
    files: tuple[Path, ...]
    mappings: tuple[str, ...]
    """One line for each route, for people: `web  http 127.0.0.1:8080 -> 2 backends`."""
    problems: tuple[str, ...]
    """One line for each omission, with the reason."""
    sections: Sections

    def with_maps_at(self, places: Mapping[Path, str]) -> str:
        """Return the text with other places of map files."""
        text = self.text
        for path, place in places.items():
            text = text.replace(expression_argument(path), expression_argument(place))
        return text


def referenced_files(config: HAProxyConfig) -> tuple[Path, ...]:
    """Return the files that the configuration names: certificates, the template and the option `files`."""
    binds = [bind for service in config.services.values() for bind in service.bind or ()]
    named = {path for bind in (*config.bind, *binds) for path in bind.certificate} | set(config.files)
    named |= {service.sorry_page for service in config.services.values() if service.sorry_page}
    if config.template is not None:
        named.add(config.template)
    named |= password_files(config)
    return tuple(sorted(named))


def password_files(config: HAProxyConfig) -> frozenset[Path]:
    """Return the files of names and passwords that the configuration names. No copy of these is kept."""
    of_services = {service.basic_auth.users_file for service in config.services.values() if service.basic_auth}
    of_stats = {config.stats.users_file} if config.stats and config.stats.users_file else set()
    return frozenset(of_services | of_stats)


def render(
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
    """Render the configuration. Equal arguments give equal text.

    `file_digests` are the digests of `referenced_files`, `certificates` those of each certificate file among
    them and in directories among them. `addresses_of` returns a backend's addresses as the core
    knows them; the function is not used if HAProxy itself looks host names up. `replaced` and `former` are those of
    `build_sections`. `template_directories` are where the template includes others from, after its
    own directory.
    Raises ApplyError, with file and line, for a template that cannot be read or that fails.
    """
    digests = tuple(sorted((file_digests or {}).items()))
    known = registered_host if config.resolve == "haproxy" else addresses_of
    sections = build_sections(config, snapshot, known, replaced, former)
    context = {
        "config": config,
        "snapshot": snapshot,
        "services": sections.services,
        "frontends": sections.frontends,
        "runtime": runtime,
        "generation": _PLACEHOLDER,
        "route_map": expression_argument(runtime.route_map),
    }
    templates = _templates(config.template, template_directories, digests)
    own = config.template
    body = (
        _run(templates, own.name, context, own.parent)
        if own
        else _run(templates, "builtin/haproxy.cfg.j2", context, _BUILT_IN)
    )
    own_sections = (line for lines in config.sections.values() for line in lines)
    requests = not runtime.alone or any(map(_REQUESTS.search, (body, *config.global_lines, *own_sections)))
    named = expression_argument(runtime.route_map) in body
    maps = {runtime.route_map: route_map(sections.route_entries())} if named else {}
    held = hold(config, body if own else None, dict(digests), certificates or {}, maps)
    head_context = {**context, "requests": requests, "comments": Raw(held.comments)}
    head = _run(templates, "builtin/head.cfg.j2", head_context, _BUILT_IN)
    resolves = own is not None and _NAMED.search(body) is not None
    text = _with_defaults(f"{head.strip()}\n\n{body.strip()}\n", runtime, resolves=resolves)
    generation = f"cfg-{_hash(parse(text).fixed, held.reload_digests)}-{_hash(text, digests)}"
    text = text.replace(_PLACEHOLDER, generation, 1)
    return Rendered(
        text,
        generation,
        maps,
        _binds(text),
        listeners_in(text),
        referenced_files(config),
        sections.mappings,
        sections.problems,
        sections,
    )


@lru_cache(maxsize=4)
def _templates(
    template: Path | None, directories: tuple[Path, ...], digests: tuple[tuple[Path, str], ...]
) -> jinja2.Environment:
    """Return the template environment; a changed digest recompiles the templates."""
    loaders: list[jinja2.BaseLoader] = [jinja2.PrefixLoader({"builtin": jinja2.FileSystemLoader(_BUILT_IN)})]
    if template is not None:
        loaders.append(jinja2.FileSystemLoader([template.parent, *directories]))
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader(loaders),
        bytecode_cache=TemplateCache(_BUILT_IN, module_file=__file__),
        undefined=jinja2.StrictUndefined,
        finalize=finalize,
        autoescape=False,  # noqa: S701 - autoescape is for HTML; finalize quotes for HAProxy
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"arg": argument, "raw": raw}
    return environment


def _run(templates: jinja2.Environment, name: str, context: Mapping[str, object], directory: Path) -> str:
    try:
        return templates.get_template(name).render(context)
    except jinja2.TemplateNotFound as error:
        raise ApplyError(f"template {directory / (error.name or name)} cannot be read: there is no such file") from None
    except jinja2.TemplateSyntaxError as error:
        raise ApplyError(f"template {error.filename or name}, line {error.lineno}: {error.message}") from None
    except Exception as error:  # noqa: BLE001 - a template can raise anything
        frames = traceback.extract_tb(error.__traceback__)
        at = next((frame for frame in reversed(frames) if frame.filename.endswith((name, ".j2"))), None)
        place = f"{at.filename}, line {at.lineno}" if at else name
        raise ApplyError(f"template {place}: {' '.join(str(error).split()) or type(error).__name__}") from None


def _with_defaults(text: str, runtime: Runtime, *, resolves: bool) -> str:
    """Begin every `defaults` section with lines that let HAProxy start although a host name cannot be resolved.

    `resolves` makes HAProxy resolve host names. HAProxy deletes no server at run time that has `resolvers`.
    """
    lines = "    default-server init-addr last,none"
    if resolves:
        lines += " resolvers discovery"
    if runtime.state_file is not None:
        lines += "\n    load-server-state-from-file global"
    return _DEFAULTS.sub(lambda match: f"{match[0]}\n{lines}", text)


def _hash(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:_HASH_CHARACTERS]


def _binds(text: str) -> tuple[str, ...]:
    found = set()
    for words in _BIND.findall(text):
        for word in words.split(","):
            try:
                found.add(bind_address(f"*{word}" if word.startswith(":") else word))  # HAProxy takes both for one
            except ValueError:
                continue  # a form that only a user's own template contains, such as a range of ports
    return tuple(sorted(found))
