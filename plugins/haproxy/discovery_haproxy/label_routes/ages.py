"""The ages of records with a route: which was first. Kept in the state directory, for registries that do not tell."""

import json
from collections.abc import Iterable
from pathlib import Path

from structlog.typing import FilteringBoundLogger

from discovery.toolkit import write_atomically
from discovery_haproxy.label_routes.requests import Wish

_FILE = "label-routes.json"


class RecordAges:
    """A number for each record, smaller for an older one: the revision that created it, or when it was seen first.

    A record that has left is forgotten. An error of the disk is logged once, and costs the memory alone.
    """

    def __init__(self, state_dir: Path, log: FilteringBoundLogger) -> None:
        """Store the arguments. No file is read or written."""
        self._path = state_dir / _FILE
        self._log = log
        self._ages: dict[str, int] | None = None
        self._saved: dict[str, int] = {}
        """The ages in the file."""
        self._failed: str | None = None

    def of(self, wishes: Iterable[Wish], *, remember: bool) -> dict[str, int]:
        """Return the ages of the records of these wishes, by key. With `remember` the next daemon knows them, too."""
        if self._ages is None:
            self._ages = self._saved = self._load()
        before = self._ages
        found = {}
        new = 1 + max(before.values(), default=0)
        for wish in wishes:
            key = wish.key
            found[key] = wish.created if wish.created is not None else before.get(key, new)
        self._ages = found
        if remember and found != self._saved:
            self._save(found)
        return found

    def _load(self) -> dict[str, int]:
        try:
            return {str(key): int(age) for key, age in json.loads(self._path.read_bytes()).items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError, AttributeError) as error:
            self._log.warning("the ages of routes cannot be read", path=str(self._path), reason=str(error))
            return {}

    def _save(self, ages: dict[str, int]) -> None:
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_atomically(self._path, json.dumps(ages).encode(), 0o600)
            self._saved, self._failed = ages, None
        except OSError as error:
            if error.strerror != self._failed:
                self._failed = error.strerror
                self._log.warning("the ages of routes cannot be kept", path=str(self._path), reason=error.strerror)
