"""Chunks of a configuration text: each computes what follows from its part of the text once. Pure."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain

from discovery_haproxy.text.configuration import NOTHING, Configuration, Inherited, Section, parse_sections
from discovery_haproxy.text.contents import NO_CONTENTS, Contents, contents_in
from discovery_haproxy.text.listeners import listeners_in, path_prefix
from discovery_haproxy.text.server_runs import LineRun, ServersInRuns
from discovery_haproxy.text.words import HEADER

_BLOCK = 32
"""Chunks of a block, about the square root of the chunks of a large configuration."""


@dataclass(frozen=True, eq=False)
class Parsed:
    """The sections of a chunk that inherits `before`, and what the next chunk inherits."""

    before: Inherited
    sections: tuple[Section, ...]
    after: Inherited

    @cached_property
    def digests(self) -> bytes:
        """The digests of all lines that only a reload can change."""
        return b"".join(section.digest for section in self.sections)


@dataclass(frozen=True)
class Chunk:
    """A part of a text that begins with a line, and what follows from this part alone, computed once."""

    text: str
    latest: list[Parsed] = field(default_factory=list, init=False, repr=False, compare=False)
    """The latest result of `parse`, if any."""
    _listeners: list[tuple[str, tuple[str, ...]]] = field(default_factory=list, init=False, repr=False, compare=False)
    """The latest argument and result of `listeners`."""

    def alike(self, text: str) -> "Chunk":
        """Return the chunk of another text that differs in nothing but the second part of the generation.

        Sections and listeners do not depend on that part, and are the same objects.
        """
        chunk = Chunk(text)
        chunk.latest[:], chunk._listeners[:] = self.latest, self._listeners
        chunk.__dict__.update(contents=self.contents, path_prefix=self.path_prefix, listens=self.listens)
        return chunk

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

    @property
    def data(self) -> bytes:
        """The text as it is written to a file."""
        return b"".join((self.head.data, *(run.data for run in self.runs), self.tail.encode()))

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
        head = self.head.parse(inherited)
        *before, last = head.sections
        own = last.servers.keys()
        if not last.split or (own and any(not own.isdisjoint(run.names) for run in self.runs)):
            return Parsed(inherited, *parse_sections(self.text, inherited))  # HAProxy alone knows the servers
        servers = ServersInRuns(last.servers, self.runs, last.defaults)
        return Parsed(inherited, (*before, replace(last, servers=servers)), head.after)


@dataclass(frozen=True)
class Block:
    """Consecutive chunks as a chunk: a change of a chunk makes the block of the chunk again, and no other block."""

    chunks: tuple[Chunk | ServersChunk, ...]
    latest: list[Parsed] = field(default_factory=list, init=False, repr=False, compare=False)
    """The latest result of `parse`, if any."""

    @property
    def text(self) -> str:
        """The text."""
        return "".join(chunk.text for chunk in self.chunks)

    @cached_property
    def data(self) -> bytes:
        """The text as it is written to a file."""
        return b"".join(chunk.data for chunk in self.chunks)

    @cached_property
    def digest(self) -> bytes:
        """Digest of the text."""
        return hashlib.sha256(b"".join(chunk.digest for chunk in self.chunks)).digest()

    @property
    def contents(self) -> Contents:
        """Digests that the comments at the beginning name."""
        return self.chunks[0].contents

    @cached_property
    def path_prefix(self) -> str | None:
        """What HAProxy puts before the paths of Unix sockets; None if the text does not say."""
        return _path_prefix(self.chunks)

    @cached_property
    def listens(self) -> bool:
        """Report whether the text has an address to listen on."""
        return any(chunk.listens for chunk in self.chunks)

    def listeners(self, prefix: str) -> tuple[str, ...]:
        """Return `listeners_in` of the text."""
        return tuple(each for chunk in self.chunks for each in chunk.listeners(prefix))

    def parse(self, inherited: Inherited) -> Parsed:
        """Return the sections, and what the next chunk inherits. `inherited` is what the chunks before say."""
        if not self.latest or self.latest[0].before != inherited:
            parsed = tuple(parsed_in_turn(self.chunks, inherited))
            sections = tuple(chain.from_iterable(each.sections for each in parsed))
            self.latest[:] = [Parsed(inherited, sections, parsed[-1].after)]
        return self.latest[0]


AnyChunk = Chunk | ServersChunk | Block


def blocks_of(chunks: Sequence[Chunk | ServersChunk], known: Sequence[Block]) -> tuple[Block, ...]:
    """Return the blocks of chunks. The blocks among `known`, which are in the same places, are used again."""
    found = []
    for number, start in enumerate(range(0, len(chunks), _BLOCK)):
        members = tuple(chunks[start : start + _BLOCK])
        is_known = number < len(known) and known[number].chunks == members
        found.append(known[number] if is_known else Block(members))
    return tuple(found)


def split(text: str, known: Mapping[str, Chunk] | None = None) -> tuple[Chunk, ...]:
    """Split a text into chunks, which begin with the header of a section each, but for the first.

    The chunks among `known`, by their texts, are used again.
    """
    starts = [match.start() for match in HEADER.finditer(text) if match.start()]
    parts = (text[start:end] for start, end in zip([0, *starts], [*starts, len(text)], strict=True))
    return tuple((known or {}).get(part) or Chunk(part) for part in parts)


def listeners_of(chunks: Sequence[AnyChunk]) -> tuple[str, ...]:
    """Return `listeners_in` of the text whose chunks these are."""
    prefix = _path_prefix(chunks) or ""
    return tuple(sorted({each for chunk in chunks if chunk.listens for each in chunk.listeners(prefix)}))


def parsed_in_turn(chunks: Iterable[AnyChunk], inherited: Inherited = NOTHING) -> Iterator[Parsed]:
    """Yield each chunk as parsed. `inherited` is what files before the text say."""
    for chunk in chunks:
        latest = chunk.latest
        parsed = latest[0] if latest and latest[0].before is inherited else chunk.parse(inherited)
        inherited = parsed.after
        yield parsed


def configuration_of(chunks: Sequence[AnyChunk], inherited: Inherited = NOTHING) -> Configuration:
    """Return the configuration whose text the chunks are. `inherited` is what files before the text say."""
    sections = chain.from_iterable(parsed.sections for parsed in parsed_in_turn(chunks, inherited))
    return Configuration(tuple(sections), chunks[0].contents if chunks else NO_CONTENTS)


def _path_prefix(chunks: Iterable[AnyChunk]) -> str | None:
    return next((found for chunk in chunks if (found := chunk.path_prefix) is not None), None)
