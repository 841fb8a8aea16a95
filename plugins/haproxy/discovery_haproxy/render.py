"""Configuration and snapshot to the text of haproxy.cfg: a pure function, but for reading the templates."""

import hashlib
import re
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import jinja2

from discovery import ApplyError, Snapshot
from discovery_haproxy.compiled import Compiled
from discovery_haproxy.config import HAProxyConfig
from discovery_haproxy.quoting import argument, finalize, raw
from discovery_haproxy.sections import AddressesOf, build_sections, registered_host
from discovery_haproxy.values import bind_address

_BUILT_IN = Path(__file__).parent / "templates"
_PLACEHOLDER = "cfg-not-yet-known"
_DEFAULTS = re.compile(r"^[ \t]*defaults(?=\s).*$", re.MULTILINE)
_BIND = re.compile(r"^[ \t]*bind[ \t]+(\S+)", re.MULTILINE)
_REQUESTS = re.compile(r"^[ \t\"']*(?:lua-|acme\b|httpclient\.)|\b(?:ocsp|crt-list\b)", re.MULTILINE)
"""What HAProxy makes HTTP requests of its own for. The file of a `crt-list` may say `ocsp-update`."""


@dataclass(frozen=True, slots=True)
class Runtime:
    """What only those who run HAProxy know: its sockets, version and files, and whether there is a resolv.conf.

    `alone` is whether HAProxy reads no other configuration file beside ours.
    """

    stats_socket: Path | None = None
    version: tuple[int, ...] = (2, 6)
    state_file: Path | None = None
    resolv_conf: bool = True
    alone: bool = False


@dataclass(frozen=True, slots=True)
class Rendered:
    """A configuration, and what to know about it."""

    text: str
    generation: str
    """`cfg-<hash>` of the text and the files that it names; `show info` gives it back as the description."""
    binds: tuple[str, ...]
    """Every address to listen on: `HOST:PORT`, `[IPV6]:PORT`, or the path of a socket."""
    files: tuple[Path, ...]
    mappings: tuple[str, ...]
    """One line for people per way in: `web  http 127.0.0.1:8080 -> 2 backends`."""
    problems: tuple[str, ...]
    """What the configuration leaves out, and why."""


def referenced_files(config: HAProxyConfig) -> tuple[Path, ...]:
    """The files that the configuration names: certificates, the template, and those listed under `files`."""
    binds = [bind for service in config.services.values() for bind in service.bind or ()]
    named = {path for bind in (*config.bind, *binds) for path in bind.certificate} | set(config.files)
    if config.template is not None:
        named.add(config.template)
    return tuple(sorted(named))


def render(
    config: HAProxyConfig,
    snapshot: Snapshot,
    runtime: Runtime,
    file_digests: Mapping[Path, str] | None = None,
    addresses_of: AddressesOf = registered_host,
) -> Rendered:
    """Write the configuration. Equal arguments give equal text.

    `file_digests` tells the contents of `referenced_files` apart; `addresses_of` a backend is what the core knows, used
    unless HAProxy itself is to look names up. Raises ApplyError, with file and line, for a
    template that cannot be read or fails.
    """
    digests = tuple(sorted((file_digests or {}).items()))
    sections = build_sections(config, snapshot, registered_host if config.resolve == "haproxy" else addresses_of)
    context = {
        "config": config,
        "snapshot": snapshot,
        "services": sections.services,
        "frontends": sections.frontends,
        "runtime": runtime,
        "generation": _PLACEHOLDER,
    }
    templates = _templates(config.template, digests)
    own = config.template
    body = (
        _run(templates, own.name, context, own.parent)
        if own
        else _run(templates, "builtin/haproxy.cfg.j2", context, _BUILT_IN)
    )
    requests = not runtime.alone or any(map(_REQUESTS.search, (body, *config.global_lines)))
    head = _run(templates, "builtin/head.cfg.j2", {**context, "requests": requests}, _BUILT_IN)
    text = _with_defaults(f"{head.strip()}\n\n{body.strip()}\n", runtime)
    generation = f"cfg-{hashlib.sha256(repr((text, digests)).encode()).hexdigest()[:16]}"
    text = text.replace(_PLACEHOLDER, generation, 1)
    return Rendered(text, generation, _binds(text), referenced_files(config), sections.mappings, sections.problems)


@lru_cache(maxsize=4)
def _templates(template: Path | None, digests: tuple[tuple[Path, str], ...]) -> jinja2.Environment:
    """The templates, compiled again whenever the digest of a file changes."""
    loaders: list[jinja2.BaseLoader] = [jinja2.PrefixLoader({"builtin": jinja2.FileSystemLoader(_BUILT_IN)})]
    if template is not None:
        loaders.append(jinja2.FileSystemLoader(template.parent))
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader(loaders),
        bytecode_cache=Compiled(_BUILT_IN, by=__file__),
        undefined=jinja2.StrictUndefined,
        finalize=finalize,
        autoescape=False,  # noqa: S701 - it is for HTML; finalize quotes for HAProxy
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


def _with_defaults(text: str, runtime: Runtime) -> str:
    """Begin every `defaults` section with what keeps one unresolvable name from stopping everybody else."""
    lines = "    default-server init-addr last,none resolvers discovery"
    if runtime.state_file is not None:
        lines += "\n    load-server-state-from-file global"
    return _DEFAULTS.sub(lambda match: f"{match[0]}\n{lines}", text)


def _binds(text: str) -> tuple[str, ...]:
    found = set()
    for words in _BIND.findall(text):
        for word in words.split(","):
            try:
                found.add(bind_address(word))
            except ValueError:
                continue  # a form that only a template of one's own has, such as a range of ports
    return tuple(sorted(found))
