"""The lines of the files that are about a backend: those with its address. Pure."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

from discovery import Backend
from discovery.toolkit import FileContents

_MOST = 10
"""Lines that are told of a backend in a file: most templates print one."""
_END = frozenset("0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-_")
"""Characters that continue a host name or a number: 10.0.0.1 is not in 10.0.0.10."""


def lines_about(files: Mapping[Path, FileContents], backends: Iterable[Backend]) -> dict[str, tuple[str, ...]]:
    """Return the lines with host and port of each backend, by key, each behind the name of its file.

    A backend of which no line has both is left out: a template may print what it likes of a backend.
    """
    texts = {path.name: each.data.decode(errors="replace").splitlines() for path, each in files.items()}
    found = {backend.key: tuple(_lines(texts, backend)) for backend in backends}
    return {key: lines for key, lines in found.items() if lines}


def _lines(texts: Mapping[str, Sequence[str]], backend: Backend) -> Iterator[str]:
    host, port = backend.host, str(backend.port)
    for name, lines in texts.items():
        matching = (line for line in lines if host in line and _has(line, host) and _has(line, port))
        for line in islice(matching, _MOST):
            yield f"{name}: {line.strip()}"


def _has(line: str, word: str) -> bool:
    """Return True if `line` has `word`, which is not a part of a longer name or number."""
    at = line.find(word)
    while at >= 0:
        end = at + len(word)
        if (at == 0 or line[at - 1] not in _END) and (end == len(line) or line[end] not in _END):
            return True
        at = line.find(word, at + 1)
    return False
