"""The files that HAProxy loads beside a fragment, as far as the fragment's sections depend on them. Pure.

HAProxy reads its files one after the other as if they were one: a `backend` section inherits from the last `defaults`
section before it, in whatever file, and a name belongs to one section of all files.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from discovery_haproxy.text.configuration import NOTHING, Inherited, inherited_from
from discovery_haproxy.text.words import SECTIONS, words

_NAME = re.compile(r"[A-Za-z0-9_.:-]+")
_SAMPLE = re.compile(
    r"\b(?:nbsrv|connslots|avg_queue|queue|be_[a-z_]+|srv_[a-z_]+)\(([A-Za-z0-9_.:-]+)(?:/([A-Za-z0-9_.:-]+))?[,)]"
)
"""A sample whose argument is a backend or, with a slash, a server."""
_TRACK = re.compile(r"\btrack ([A-Za-z0-9_.:-]+)/([A-Za-z0-9_.:-]+)")
"""A server whose state is that of a server of another backend."""
_NOTHING: Mapping[str, str] = MappingProxyType({})


class Defaults(NamedTuple):
    """A `defaults` section. `name` is empty if the section has none, `last` is True if no other section follows."""

    name: str
    place: str
    last: bool


class Neighbours(NamedTuple):
    """The other files that HAProxy loads: paths, names of sections, and what a `backend` section inherits."""

    before: tuple[Path, ...] = ()
    after: tuple[Path, ...] = ()
    defined: Mapping[str, str] = _NOTHING
    """Places (`/etc/haproxy/haproxy.cfg:12`) of the sections with a backend's name."""
    named: Mapping[str, str] = _NOTHING
    """Modes of the sections whose lines name a backend, by the backend's name. No file need define the backend."""
    inherited: Inherited = NOTHING
    """What the fragment's sections inherit from the files before the fragment."""
    defaults: Mapping[str, Defaults] = MappingProxyType({})
    """The last `defaults` section before the fragment for each mode."""
    servers: Mapping[str, tuple[str, ...]] = MappingProxyType({})
    """Servers that lines name, by their backends, which are in none of these files. HAProxy loads no line that names a
    missing server."""


NO_NEIGHBOURS = Neighbours()


class _Section(NamedTuple):
    place: str
    lines: list[list[str]]
    text: list[str]

    @property
    def header(self) -> list[str]:
        return self.lines[0]

    @property
    def name(self) -> str:
        """Name of the section; empty if the section has none."""
        return " ".join(self.header[1:2])

    @property
    def is_backend(self) -> bool:
        """Report whether no `backend` section can have the name of the section."""
        return self.header[0] in ("backend", "listen") and bool(self.name)

    def mode(self, inherited: str) -> str:
        found = [line[1] for line in self.lines if line[:1] == ["mode"] and len(line) > 1]
        return found[-1] if found else inherited


def defined_sections(files: Iterable[tuple[Path, str]]) -> dict[str, str]:
    """Return the places (`/etc/haproxy/own.cfg:12`) of the sections with a backend's name in files, by that name."""
    defined: dict[str, str] = {}
    for section in _sections(files):
        if section.is_backend:
            defined.setdefault(section.name, section.place)
    return defined


def neighbours(before: Sequence[tuple[Path, str]], after: Sequence[tuple[Path, str]] = ()) -> Neighbours:
    """Return what a fragment depends on in the files that HAProxy loads `before` and `after` the fragment.

    Each file is a path with its text, in the order of loading.
    """
    defined = defined_sections([*before, *after])
    named: dict[str, str] = {}
    servers: dict[str, dict[str, None]] = {}
    inherited = "tcp"  # HAProxy's default
    for section in _sections([*before, *after]):
        mode = section.mode(inherited)
        if section.header[0] == "defaults":
            inherited = mode
        for line in section.lines[1:]:
            if line[:1] in (["use_backend"], ["default_backend"]) and _NAME.fullmatch(" ".join(line[1:2])):
                named.setdefault(line[1], mode)
            text = " ".join(line)
            for backend, server in (*_SAMPLE.findall(text), *_TRACK.findall(text)):
                named.setdefault(backend, mode)
                if server:
                    servers.setdefault(backend, {})[server] = None
    defaults = [section for section in _sections(before) if section.header[0] == "defaults"]
    by_mode: dict[str, Defaults] = {}
    for section in defaults:
        name = section.name
        by_mode[section.mode("tcp")] = Defaults(name if name != "from" else "", section.place, section is defaults[-1])
    return Neighbours(
        tuple(path for path, _ in before),
        tuple(path for path, _ in after),
        defined,
        {name: mode for name, mode in named.items() if name not in defined},
        inherited_from("".join(f"{line}\n" for section in defaults for line in section.text)),
        by_mode,
        {backend: tuple(found) for backend, found in servers.items() if backend not in defined},
    )


def _sections(files: Iterable[tuple[Path, str]]) -> Iterator[_Section]:
    for path, text in files:
        section: _Section | None = None
        for number, line in enumerate(text.splitlines(), start=1):
            found = words(line)
            if found and SECTIONS.fullmatch(found[0]):
                if section is not None:
                    yield section
                section = _Section(f"{path}:{number}", [], [])
            if found and section is not None:
                section.lines.append(found)
                section.text.append(line)
        if section is not None:
            yield section
