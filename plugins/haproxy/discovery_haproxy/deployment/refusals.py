"""Memory of the configurations that HAProxy refused to load, so that none of them is loaded again.

A reload that HAProxy refuses stops all listeners for about 2 s, each time.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from discovery_haproxy.deployment.checking import Checker
from discovery_haproxy.deployment.target import RefusedError
from discovery_haproxy.program.binary import Binary

_NOT_AGAIN = "the same is not tried again before a file, an address or the program changes, or the daemon is reloaded"
_VARIABLE_LINES = re.compile(r"^[ \t]*(?:server|description)[ \t].*\n", re.MULTILINE)
"""Lines without a part in a refusal: HAProxy has checked them before, and they bind no address."""
_PEERS = re.compile(r"^[ \t]*peers[ \t](?!discovery$)", re.MULTILINE)
"""A section in which HAProxy binds the address of a `server` line, but for that of `keep_stick_tables`."""
_MOST_REFUSALS = 100
"""Number of refusals that are remembered: a search for a form that HAProxy accepts makes 40 attempts at most."""


class Attempt(NamedTuple):
    """The facts on which it depends whether HAProxy loads a configuration that `haproxy -c` accepts."""

    lines: str
    """Digest of the configuration without the `server` lines, whose changes would make a refused address no better."""
    files: tuple[tuple[Path, str], ...]
    checker: Checker
    missed_binds: frozenset[str]
    """The addresses that cannot be bound, as far as a probe tells."""

    @classmethod
    def of(cls, text: str, files: Mapping[Path, str], checker: Checker, missed_binds: Iterable[str]) -> "Attempt":
        """Return the attempt to load `text`, which names `files`, here with their digests."""
        is_checked = isinstance(checker, Binary)
        lines = text if not is_checked or _PEERS.search(text) else _VARIABLE_LINES.sub("", text)
        digest = hashlib.sha256(lines.encode()).hexdigest()
        return cls(digest, tuple(sorted(files.items())), checker, frozenset(missed_binds))


class Refusals:
    """The attempts that HAProxy refused last, with the errors."""

    def __init__(self) -> None:
        """Start without a refusal."""
        self._refused: dict[Attempt, RefusedError] = {}

    def __bool__(self) -> bool:
        """Report whether there is a refusal."""
        return bool(self._refused)

    def add(self, attempt: Attempt, error: RefusedError) -> RefusedError:
        """Remember a refusal, and return the error to raise."""
        known = RefusedError(f"{error}; {_NOT_AGAIN}")
        known.alerts = error.alerts
        self._refused[attempt] = known
        if len(self._refused) > _MOST_REFUSALS:
            del self._refused[next(iter(self._refused))]
        return known

    def check(self, attempt: Attempt) -> None:
        """Raise the error of the refusal if HAProxy refused this very attempt."""
        if (error := self._refused.get(attempt)) is not None:
            raise error.with_traceback(None)  # each `raise` would make the traceback longer

    def clear(self) -> None:
        """Forget the refusals."""
        self._refused = {}
