"""The lines of the files that are about a backend: those with its address. Pure."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import chain
from pathlib import Path

from discovery import Backend
from discovery.toolkit import FileContents

_MOST = 10
"""Lines of a file that are shown for a backend at most: most templates print one line for a backend."""
_END = frozenset("0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-_")
"""Characters that continue a host name or a number: 10.0.0.1 is not in 10.0.0.10."""
_BETWEEN = re.compile(r"[^0-9a-zA-Z._-]+")
"""What is between two words of such characters."""


def lines_about(files: Mapping[Path, FileContents], backends: Iterable[Backend]) -> dict[str, tuple[str, ...]]:
    """Return the lines with host and port of each backend, by key, each behind the name of its file.

    A backend of which no line has both is left out: a template may print what it likes of a backend. Each file is read
    once, however many backends there are.
    """
    backends = tuple(backends)
    by_word = _by_word(backends)
    found: dict[str, list[str]] = {backend.key: [] for backend in backends}
    for path, contents in files.items():
        told = Counter[str]()
        for line in contents.data.decode(errors="replace").splitlines():
            for word in by_word.keys() & _BETWEEN.split(line):
                for backend in by_word[word]:
                    if told[backend.key] < _MOST and _has(line, backend.host) and _has(line, str(backend.port)):
                        told[backend.key] += 1
                        found[backend.key].append(f"{path.name}: {line.strip()}")
    return {key: tuple(lines) for key, lines in found.items() if lines}


def _by_word(backends: Iterable[Backend]) -> dict[str, list[Backend]]:
    """Return the backends by a word of their hosts, that of the fewest: an IPv6 address has several words."""
    words = [(backend, [each for each in _BETWEEN.split(backend.host) if each]) for backend in backends]
    counts = Counter(chain.from_iterable(found for _, found in words))
    by_word: dict[str, list[Backend]] = {}
    for backend, found in words:
        by_word.setdefault(min(found, key=counts.__getitem__, default=""), []).append(backend)
    return by_word


def _has(line: str, word: str) -> bool:
    """Return True if `line` has `word`, which is not a part of a longer name or number."""
    at = line.find(word)
    while at >= 0:
        end = at + len(word)
        if (at == 0 or line[at - 1] not in _END) and (end == len(line) or line[end] not in _END):
            return True
        at = line.find(word, at + 1)
    return False
