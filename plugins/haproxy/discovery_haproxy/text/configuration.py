"""A configuration text, split into the servers, which the runtime API can change, and the rest.

A text that is parsed again and again is parsed in parts, see `chunks`: the section of an unchanged part is the same
object in every configuration, and comparing two configurations costs little more than what differs.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from types import MappingProxyType
from typing import NamedTuple

from discovery_haproxy.text.contents import NO_CONTENTS, Contents, contents_in
from discovery_haproxy.text.generation import MARKS
from discovery_haproxy.text.server_line import Server, parse_server
from discovery_haproxy.text.server_runs import ServerLine
from discovery_haproxy.text.words import SECTIONS

_DESCRIPTION = re.compile(r"\b(cfg-[0-9a-f]+)-[0-9a-f]+\b")
"""A generation. Its second part is the hash of the servers, which the runtime API can change."""
_NAME = re.compile(r"[A-Za-z0-9_.:-]+")
_QUOTING = ('"', "'", "\\")
"""Characters with which HAProxy quotes words: a keyword that begins with one is not recognised here."""
_REFERENCE = re.compile(r"use-server|track|srv_")
"""Words of lines that may name a server: rules, servers that follow another's checks, and samples."""
_REMEMBERED = 256
"""Sections whose words are remembered, of some kilobytes each."""
_WITHOUT_QUOTES = str.maketrans("", "", "\"'\\")


class Inherited(NamedTuple):
    """The lines of `defaults` sections: of the last, from which a section inherits, and of each that has a name."""

    last: tuple[str, ...] = ()
    named: Mapping[str, tuple[str, ...]] = MappingProxyType({})


NOTHING = Inherited()


@dataclass(frozen=True)
class Section:
    """A section. `lines` are all lines but those of `servers`, which only a `backend` section has, and but comments.

    `inherited` are the lines of the `defaults` section that the header names, or else of the preceding one.
    """

    header: str
    lines: tuple[str, ...]
    inherited: tuple[str, ...] = ()
    split: bool = False
    """True if the servers of the section are all in `servers`."""
    servers: Mapping[str, ServerLine] = field(default_factory=dict)
    defaults: tuple[str, ...] = ()
    """Words of the `default-server` lines that apply to a server below all lines of a section that is `split`."""

    @cached_property
    def name(self) -> str:
        """Name of the section; empty if the section has none."""
        words = self.header.split()
        return words[1] if len(words) > 1 else ""

    @cached_property
    def kind(self) -> str:
        """Word that begins the section, such as `backend`; empty if there is none."""
        return _kind(self.header)

    @cached_property
    def digest(self) -> bytes:
        """Digest of all lines that only a reload can change."""
        return hashlib.sha256("\n".join(self.lines).encode(errors="surrogateescape")).digest()

    @cached_property
    def refers_to_servers(self) -> bool:
        """Report whether a line may name a server, of this section or of another."""
        return any(map(_REFERENCE.search, self.lines))

    def settings(self, keyword: str) -> Iterator[list[str]]:
        """Return the words of each line that begins with `keyword`: first the inherited lines, then the own lines."""
        return iter(_words_by_keyword(self.inherited, self.lines).get(keyword, ()))

    def server(self, name: str) -> Server | None:
        """Return the server `name` as configured; None if the runtime API does not offer all that its line says."""
        line = self.servers[name]
        return parse_server(line.text, line.defaults)


@dataclass(frozen=True)
class Configuration:
    """The sections of a configuration in their order, and the contents of files that HAProxy is to hold."""

    sections: tuple[Section, ...]
    contents: Contents = NO_CONTENTS

    @cached_property
    def backends(self) -> Mapping[str, Section]:
        """Sections of kind `backend` by name."""
        return {section.name: section for section in self.sections if section.kind == "backend"}


def parse(text: str, inherited: Inherited = NOTHING) -> Configuration:
    """Split a configuration into sections and servers. `inherited` is what files before the text say."""
    return Configuration(parse_sections(text, inherited)[0], contents_in(text))


def inherited_from(text: str) -> Inherited:
    """Return what a file after `text` inherits."""
    return parse_sections(text, NOTHING)[1]


def parse_sections(text: str, inherited: Inherited) -> tuple[tuple[Section, ...], Inherited]:
    """Return the sections of a text, and what a text that follows inherits. `inherited` is what texts before say."""
    sections: list[Section] = []
    for header, lines in _split(text):
        kind, name, parent = _header(header)
        if kind == "defaults":
            last = (*inherited.named.get(parent, ()), *lines[1:])
            inherited = Inherited(last, {**inherited.named, name: last} if name else inherited.named)
        if kind != "backend":
            sections.append(Section(header, lines))
        elif parent and parent not in inherited.named:
            sections.append(Section(header, lines))  # HAProxy alone knows what the section inherits
        else:
            sections.append(_backend(header, lines, inherited.named[parent] if parent else inherited.last))
    return tuple(sections), inherited


def _header(header: str) -> tuple[str, str, str]:
    """Return the kind and the name of a section, and the name of the `defaults` section in `from`; empty if missing."""
    words = header.split()
    parent = words[-1] if len(words) > 2 and words[-2] == "from" else ""
    return _kind(header), words[1] if len(words) > 1 and words[1] != "from" else "", parent


def _split(text: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    header, lines = "", list[str]()
    for line in text.splitlines():
        stripped = line.strip()
        if stripped.startswith("server "):  # as nearly all lines of a large configuration
            lines.append(stripped)
            continue
        words = stripped.split(maxsplit=1)
        if words and SECTIONS.fullmatch(words[0]):
            if lines:
                yield header, tuple(lines)
            header, lines = stripped, []
        if not words or stripped.startswith("#"):
            continue
        lines.append(_DESCRIPTION.sub(r"\1", stripped) if stripped.startswith(MARKS) else stripped)
    if lines:
        yield header, tuple(lines)


def _backend(header: str, lines: tuple[str, ...], inherited: tuple[str, ...]) -> Section:
    servers: dict[str, ServerLine] = {}
    rest: list[str] = []
    count = 0
    if (defaults := _inherited_defaults(inherited)) is None:
        return Section(header, lines, inherited)
    for line in lines:
        words = line.split(maxsplit=2)
        if len(words) > 1 and words[0] == "server":
            servers[words[1]] = ServerLine(line, defaults)
            count += 1
            continue
        if line.startswith((".", *_QUOTING)) or words[:1] == ["server-template"]:
            return Section(header, lines, inherited)  # HAProxy alone knows the servers
        if words[:1] == ["default-server"]:
            defaults = (*defaults, *line.split()[1:])
        rest.append(line)
    if not all(map(_NAME.fullmatch, servers)):
        return Section(header, lines, inherited)
    if count != len(servers) or len(header.split()) != (4 if _header(header)[2] else 2):
        return Section(header, lines, inherited)
    return Section(header, tuple(rest), inherited, True, servers, defaults)


@lru_cache(maxsize=_REMEMBERED)
def _inherited_defaults(inherited: tuple[str, ...]) -> tuple[str, ...] | None:
    """Return the words of the inherited `default-server` lines; None if HAProxy alone knows what the lines say.

    The sections of a configuration inherit the same lines.
    """
    if any(line.startswith((".", *_QUOTING)) for line in inherited):
        return None
    return tuple(word for words in _settings(inherited, "default-server") for word in words[1:])


@lru_cache(maxsize=_REMEMBERED)
def _words_by_keyword(inherited: tuple[str, ...], lines: tuple[str, ...]) -> Mapping[str, Sequence[list[str]]]:
    """Return the words of a section's lines by their first word. Each change of servers asks for several of them."""
    found: dict[str, list[list[str]]] = {}
    for line in (*inherited, *lines):
        if words := line.translate(_WITHOUT_QUOTES).split():
            found.setdefault(words[0], []).append(words)
    return found


def _settings(lines: Iterable[str], keyword: str) -> Iterator[list[str]]:
    return (words for line in lines if (words := line.split()) and words[0] == keyword)


def _kind(header: str) -> str:
    return header.split(maxsplit=1)[0] if header else ""
