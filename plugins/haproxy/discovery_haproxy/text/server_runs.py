"""The `server` lines of a section in runs of consecutive lines: a change of a server makes a single run again. Pure."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from operator import is_not
from typing import NamedTuple

_Words = tuple[str, ...]


class ServerLine(NamedTuple):
    """A `server` line without its indentation, and the words of the `default-server` lines that apply to the line."""

    text: str
    defaults: _Words


@dataclass(frozen=True)
class LineRun:
    """Consecutive `server` lines, each with its line break, and the names of the servers."""

    names: tuple[str, ...]
    lines: tuple[str, ...]
    _known: list[tuple[_Words, Mapping[str, ServerLine]]] = field(
        default_factory=list, init=False, repr=False, compare=False
    )
    """The latest argument and result of `servers`."""

    @cached_property
    def data(self) -> bytes:
        """The lines as they are written to a file."""
        return "".join(self.lines).encode(errors="surrogateescape")

    @cached_property
    def digest(self) -> bytes:
        """Digest of the lines."""
        return hashlib.sha256(self.data).digest()

    def servers(self, defaults: _Words) -> Mapping[str, ServerLine]:
        """Return the servers by name. `defaults` are the words of `default-server` lines that apply to the run."""
        if not self._known or self._known[0][0] != defaults:
            found = {
                name: ServerLine(line.strip(), defaults) for name, line in zip(self.names, self.lines, strict=True)
            }
            self._known[:] = [(defaults, found)]
        return self._known[0][1]


class ServersInRuns(Mapping[str, ServerLine]):
    """The servers of a section by name: `first`, and those of runs. The lines are parsed when they are asked for."""

    def __init__(self, first: Mapping[str, ServerLine], runs: Sequence[LineRun], defaults: _Words) -> None:
        """Store the arguments. All names are different. `defaults` are those of `LineRun.servers`."""
        self._first = first
        self._runs = tuple(runs)
        self._defaults = defaults
        self._count = len(first) + sum(len(run.names) for run in runs)

    def __getitem__(self, name: str) -> ServerLine:
        """Return the line of a server."""
        return self._all[name]

    def __iter__(self) -> Iterator[str]:
        """Yield the names in the order of the lines."""
        return iter(self._all)

    def __len__(self) -> int:
        """Return the number of servers."""
        return self._count

    def __contains__(self, name: object) -> bool:
        """Report whether there is a server of this name."""
        return name in self._all

    def __repr__(self) -> str:
        """Return the servers as a dictionary."""
        return repr(self._all)

    @property
    def parts(self) -> tuple[Mapping[str, ServerLine], ...]:
        """The servers in parts. A part of the same lines is the same object in the servers before a change."""
        return self._first, *(run.servers(self._defaults) for run in self._runs)

    @cached_property
    def _all(self) -> Mapping[str, ServerLine]:
        found = dict(self._first)
        for run in self._runs:
            found.update(run.servers(self._defaults))
        return found


class Differences(NamedTuple):
    """The servers in which two sections differ. `before` and `after` are without servers that both have in place."""

    before: Mapping[str, ServerLine]
    after: Mapping[str, ServerLine]

    @property
    def is_empty(self) -> bool:
        """Report whether the sections have equal servers in the same order."""
        return self.before == self.after and not self.changes_members

    @property
    def changes_members(self) -> bool:
        """Report whether servers were added, removed or reordered."""
        return list(self.before) != list(self.after)


def differences(before: Mapping[str, ServerLine], after: Mapping[str, ServerLine]) -> Differences:
    """Compare the servers of a section. Parts at the begin and at the end that are the same objects cost nothing."""
    if not (isinstance(before, ServersInRuns) and isinstance(after, ServersInRuns)):
        return Differences(before, after)
    old, new = before.parts, after.parts
    start = _shared(old, new)
    old, new = old[start:], new[start:]
    end = _shared(old[::-1], new[::-1])
    return Differences(_joined(old[: len(old) - end]), _joined(new[: len(new) - end]))


def _shared(old: Sequence[object], new: Sequence[object]) -> int:
    """Return the number of objects at the beginning of both that are the same."""
    at = bytes(map(is_not, old, new)).find(1)
    return min(len(old), len(new)) if at < 0 else at


def _joined(parts: Iterable[Mapping[str, ServerLine]]) -> Mapping[str, ServerLine]:
    return dict(chain.from_iterable(part.items() for part in parts))
