"""Memory of the configurations that HAProxy refused to load, so that none of them is loaded again.

A reload that HAProxy refuses stops all listeners for about 2 s, each time.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from discovery.toolkit import write_atomically
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

    @property
    def key(self) -> str:
        """Text that is equal for equal attempts, in other processes, too."""
        facts = self._replace(missed_binds=frozenset()), sorted(self.missed_binds)  # a set has no order
        return hashlib.sha256(repr(facts).encode()).hexdigest()

    @classmethod
    def of(cls, text: str, files: Mapping[Path, str], checker: Checker, missed_binds: Iterable[str]) -> "Attempt":
        """Return the attempt to load `text`, which names `files`, here with their digests."""
        is_checked = isinstance(checker, Binary)
        lines = text if not is_checked or _PEERS.search(text) else _VARIABLE_LINES.sub("", text)
        digest = hashlib.sha256(lines.encode()).hexdigest()
        return cls(digest, tuple(sorted(files.items())), checker, frozenset(missed_binds))


class Refusals:
    """The attempts that HAProxy refused last, with the errors, in a file that the next daemon reads."""

    def __init__(self, path: Path) -> None:
        """Read the file `path`. A refusal of before the machine started is forgotten."""
        self._path = path
        self._refused: dict[str, tuple[str, tuple[str, ...]]] = {}
        with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            document = json.loads(path.read_bytes())
            if document["boot"] == _boot():
                for each in document["refused"]:
                    self._refused[str(each["attempt"])] = str(each["message"]), tuple(map(str, each["alerts"]))

    def __bool__(self) -> bool:
        """Report whether there is a refusal."""
        return bool(self._refused)

    def add(self, attempt: Attempt, error: RefusedError) -> RefusedError:
        """Remember a refusal, and return the error to raise."""
        self._refused[attempt.key] = f"{error}; {_NOT_AGAIN}", error.alerts
        if len(self._refused) > _MOST_REFUSALS:
            del self._refused[next(iter(self._refused))]
        self._write()
        return self._error(attempt)

    def check(self, attempt: Attempt) -> None:
        """Raise the error of the refusal if HAProxy refused this very attempt."""
        if attempt.key in self._refused:
            raise self._error(attempt)

    def clear(self) -> None:
        """Forget the refusals."""
        if self._refused:
            self._refused = {}
            self._write()

    def _error(self, attempt: Attempt) -> RefusedError:
        message, alerts = self._refused[attempt.key]
        error = RefusedError(message)
        error.alerts = alerts
        return error

    def _write(self) -> None:
        refused = [
            {"attempt": key, "message": message, "alerts": alerts} for key, (message, alerts) in self._refused.items()
        ]
        with suppress(OSError):  # a full disk costs one more attempt of the next daemon
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_atomically(self._path, json.dumps({"boot": _boot(), "refused": refused}).encode(), 0o600)


def _boot() -> str:
    """Return what is another text after each start of the machine. Raises OSError."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
