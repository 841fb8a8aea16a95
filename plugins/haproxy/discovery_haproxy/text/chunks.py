"""Chunks of a configuration text: each computes what follows from its part of the text once. Pure."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import NamedTuple

from discovery_haproxy.text.configuration import NOTHING, Configuration, Inherited, Section, parse_sections
from discovery_haproxy.text.contents import NO_CONTENTS, Contents, contents_in
from discovery_haproxy.text.listeners import listeners_in, path_prefix
from discovery_haproxy.text.server_runs import LineRun, ServersInRuns
from discovery_haproxy.text.words import HEADER


class Parsed(NamedTuple):
    """The sections of a chunk that inherits `before`, and what the next chunk inherits."""

    before: Inherited
    sections: tuple[Section, ...]
    after: Inherited


@dataclass(frozen=True)
class Chunk:
    """A part of a text that begins with a line, and what follows from this part alone, computed once."""

    text: str
    latest: list[Parsed] = field(default_factory=list, init=False, repr=False, compare=False)
    """The latest result of `parse`, if any."""
    _listeners: list[tuple[str, tuple[str, ...]]] = field(default_factory=list, init=False, repr=False, compare=False)
    """The latest argument and result of `listeners`."""

    @cached_property
    def data(self) -> bytes:
        """The text as it is written to a file."""
        return self.text.encode(errors="surrogateescape")

    @cached_property
    def digest(self) -> bytes:
        """Digest of the text."""
        return hashlib.sha256(self.data).digest()

    @cached_property
    def contents(self) -> Contents:
        """Digests that the comments at the beginning name."""
        return contents_in(self.text)

    @cached_property
    def path_prefix(self) -> str | None:
        """What HAProxy puts before the paths of Unix sockets; None if the text does not say."""
        return path_prefix(self.text)

    @cached_property
    def listens(self) -> bool:
        """Report whether the text has an address to listen on."""
        return bool(listeners_in(self.text, ""))

    def listeners(self, prefix: str) -> tuple[str, ...]:
        """Return `listeners_in` of the text."""
        if not self._listeners or self._listeners[0][0] != prefix:
            self._listeners[:] = [(prefix, listeners_in(self.text, prefix))]
        return self._listeners[0][1]

    def parse(self, inherited: Inherited) -> Parsed:
        """Return the sections, and what the next chunk inherits. `inherited` is what the chunks before say."""
        if not self.latest or self.latest[0].before != inherited:
            self.latest[:] = [Parsed(inherited, *parse_sections(self.text, inherited))]
        return self.latest[0]


@dataclass(frozen=True)
class ServersChunk:
    """A chunk whose last lines are those of servers. A change of a server makes a run of lines and little else again.

    `head` is the text before these lines, which begins with the header of a section, `tail` the text behind the lines:
    empty, or an empty line.
    """

    head: Chunk
    runs: tuple[LineRun, ...]
    tail: str = ""
    latest: list[Parsed] = field(default_factory=list, init=False, repr=False, compare=False)
    """The latest result of `parse`, if any."""

    @property
    def text(self) -> str:
        """The text."""
        return "".join((self.head.text, *(line for run in self.runs for line in run.lines), self.tail))

    @cached_property
    def data(self) -> bytes:
        """The text as it is written to a file."""
        return self.text.encode(errors="surrogateescape")

    @cached_property
    def digest(self) -> bytes:
        """Digest of the text."""
        parts = (self.head.digest, *(run.digest for run in self.runs), self.tail.encode())
        return hashlib.sha256(b"".join(parts)).digest()

    @property
    def contents(self) -> Contents:
        """Digests that the comments at the beginning name."""
        return self.head.contents

    @cached_property
    def path_prefix(self) -> str | None:
        """What HAProxy puts before the paths of Unix sockets; None if the text does not say."""
        return self.head.path_prefix

    @cached_property
    def listens(self) -> bool:
        """Report whether the text has an address to listen on."""
        return self.head.listens

    def listeners(self, prefix: str) -> tuple[str, ...]:
        """Return `listeners_in` of the text."""
        return self.head.listeners(prefix)

    def parse(self, inherited: Inherited) -> Parsed:
        """Return the sections, and what the next chunk inherits. `inherited` is what the chunks before say."""
        if not self.latest or self.latest[0].before != inherited:
            self.latest[:] = [self._parse(inherited)]
        return self.latest[0]

    def _parse(self, inherited: Inherited) -> Parsed:
        _, (*before, last), after = self.head.parse(inherited)
        own = last.servers.keys()
        if not last.split or (own and any(not own.isdisjoint(run.names) for run in self.runs)):
            return Parsed(inherited, *parse_sections(self.text, inherited))  # HAProxy alone knows the servers
        servers = ServersInRuns(last.servers, self.runs, last.defaults)
        return Parsed(inherited, (*before, replace(last, servers=servers)), after)


AnyChunk = Chunk | ServersChunk


def split(text: str, known: Mapping[str, Chunk] | None = None) -> tuple[Chunk, ...]:
    """Split a text into chunks, which begin with the header of a section each, but for the first.

    The chunks among `known`, by their texts, are used again.
    """
    starts = [match.start() for match in HEADER.finditer(text) if match.start()]
    parts = (text[start:end] for start, end in zip([0, *starts], [*starts, len(text)], strict=True))
    return tuple((known or {}).get(part) or Chunk(part) for part in parts)


def listeners_of(chunks: Sequence[AnyChunk]) -> tuple[str, ...]:
    """Return `listeners_in` of the text whose chunks these are."""
    prefix = next((found for chunk in chunks if (found := chunk.path_prefix) is not None), "")
    return tuple(sorted({each for chunk in chunks if chunk.listens for each in chunk.listeners(prefix)}))


def configuration_of(chunks: Iterable[AnyChunk], inherited: Inherited = NOTHING) -> Configuration:
    """Return the configuration whose text the chunks are. `inherited` is what files before the text say."""
    sections: list[Section] = []
    contents: Contents | None = None
    for chunk in chunks:  # written for speed: nearly all of a thousand chunks are parsed already
        contents = contents or chunk.contents
        latest = chunk.latest
        parsed = latest[0] if latest and latest[0][0] is inherited else chunk.parse(inherited)
        sections += parsed[1]
        inherited = parsed[2]
    return Configuration(tuple(sections), contents or NO_CONTENTS)
