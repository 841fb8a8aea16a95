"""The file of changes beside a remembered snapshot: what has changed since the snapshot was written whole.

A change of one backend among 100,000 appends a line. A reader of the snapshot applies the lines. The first line
names the snapshot that the changes belong to: changes of another snapshot, which a crash or another daemon may leave,
count for nothing, and neither does a last line that was not written whole.
"""

import errno
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from discovery.documents import backend_document
from discovery.model import Changes
from discovery.system.files import sync_directory

_Identity = tuple[int, int]
"""Device and inode number of a file."""


class DisplacedError(Exception):
    """Another program has replaced or removed a file of the log."""


class Entry(NamedTuple):
    """A change. `leases` has the TTL of each lease that changed, in seconds, None for a key without a lease."""

    revision: int
    changes: Changes
    leases: Mapping[str, float | None]
    doubted: bool

    @property
    def line(self) -> bytes:
        """The change as a line of JSON."""
        document = {
            "revision": self.revision,
            "backends": [backend_document(each) for each in (*self.changes.added, *self.changes.updated)],
            "removed": [each.key for each in self.changes.removed],
            "leases": self.leases,
            "doubted": self.doubted,
        }
        return json.dumps(document).encode() + b"\n"


class ChangeLog:
    """Appends to the file of changes. Not for several threads at once."""

    def __init__(self, snapshot: Path) -> None:
        """Name the file after the file of the snapshot. No I/O."""
        self._snapshot = snapshot
        self._path = path_beside(snapshot)
        self._of = ""
        self._files: tuple[_Identity, _Identity | None] | None = None
        self.size = 0
        """Bytes of the file."""

    def begin(self, of: str) -> None:
        """Drop the changes: the snapshot was written whole just now, with `of` as its name. Raises OSError."""
        self._of, self.size = of, 0
        self._files = _identity(self._snapshot.stat()), None
        self._path.unlink(missing_ok=True)

    def append(self, entry: Entry) -> None:
        """Append a change, durably. Raises OSError, and DisplacedError if the files are not those of this log."""
        if self._files is None or _identity(self._snapshot.stat()) != self._files[0]:
            raise DisplacedError
        line = entry.line if self.size else json.dumps({"of": self._of}).encode() + b"\n" + entry.line
        flags = os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        if not self.size:
            flags |= os.O_CREAT | os.O_EXCL
        try:
            descriptor = os.open(self._path, flags, 0o600)
        except (FileNotFoundError, FileExistsError):
            raise DisplacedError from None
        try:
            state = os.fstat(descriptor)
            if state.st_size != self.size or self._files[1] not in (None, _identity(state)):
                raise DisplacedError
            if os.write(descriptor, line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fdatasync(descriptor)
        finally:
            os.close(descriptor)
        if not self.size:
            sync_directory(self._path.parent)
        self._files = self._files[0], _identity(state)
        self.size += len(line)


def path_beside(snapshot: Path) -> Path:
    """Return the path of the file of changes that belongs to the file of a snapshot."""
    return snapshot.with_suffix(".changes")


def replay(snapshot: Path, document: dict[str, Any], records: dict[str, Mapping[str, Any]]) -> None:
    """Bring the document of a snapshot, and its records by key, up to date with the changes, if there are any.

    Raises OSError if the file cannot be read, and ValueError, KeyError, TypeError or AttributeError at the first change
    that is none; the changes before it then count.
    """
    try:
        lines = path_beside(snapshot).read_bytes().split(b"\n")[:-1]  # what follows the last line break is not whole
    except FileNotFoundError:
        return
    of = document.get("changes")
    if not lines or of is None or json.loads(lines[0])["of"] != of:
        return
    for entry in map(json.loads, lines[1:]):
        put = {f"{each['service']}/{each['id']}": each for each in entry["backends"]}
        removed, leases = [str(key) for key in entry["removed"]], dict(entry["leases"])
        document |= {"revision": int(entry["revision"]), "doubted": bool(entry["doubted"])}
        records.update(put)
        for key in removed:
            records.pop(key, None)
        ttls = document.setdefault("leases", {})
        ttls.update(leases)
        for key in [key for key, ttl in leases.items() if ttl is None]:
            del ttls[key]


def _identity(state: os.stat_result) -> _Identity:
    return state.st_dev, state.st_ino
