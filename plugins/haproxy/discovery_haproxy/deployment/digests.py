"""Digests of the files that a configuration names. A file is read again only when its inode data have changed."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

MISSING = "missing"
"""Digest of a path that cannot be read."""
_ABSENT = (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError)
"""Exceptions for a file that is missing or hidden from this user. Any other OSError, such as EMFILE, is raised: a
digest without the contents would reload HAProxy."""
_Stamp = tuple[tuple[str, int, int, int], ...]
"""Name, time of change, size and inode number of each file."""


class FileDigests:
    """A cache of digests by path."""

    def __init__(self) -> None:
        """Start with an empty cache."""
        self._known: dict[Path, tuple[_Stamp, str]] = {}

    def read(self, paths: Iterable[Path]) -> dict[Path, str]:
        """Return the digest of each path: of a file's contents, or of the contents of every file in a directory.

        Raises OSError if a file cannot be read although this user may read the file, as without a free descriptor.
        """
        digests = {}
        for path in paths:
            stamp = _stamp(path)
            known = self._known.get(path)
            if known is None or known[0] != stamp:
                known = self._known[path] = (stamp, _digest(path, stamp))
            digests[path] = known[1]
        return digests

    def changed(self, paths: Iterable[Path]) -> bool:
        """Report whether any of the paths has changed since the path was last read."""
        return any(path in self._known and self._known[path][0] != _stamp(path) for path in paths)


def files_at(path: Path) -> list[Path]:
    """Return the file at `path`, or the files of the directory `path`; nothing if the directory cannot be read."""
    try:
        return _files_at(path)
    except OSError:
        return []


def _files_at(path: Path) -> list[Path]:
    return sorted(path.iterdir()) if path.is_dir() else [path]


def _stamp(path: Path) -> _Stamp:
    try:
        states = [(file.name, file.stat()) for file in _files_at(path) if path is file or file.is_file()]
    except _ABSENT:
        return ()
    # Not the time of modification, which programs such as `cp -p` set.
    return tuple((name, state.st_ctime_ns, state.st_size, state.st_ino) for name, state in states)


def _digest(path: Path, stamp: _Stamp) -> str:
    digest = hashlib.sha256()
    try:
        for name, *_ in stamp:
            contents = (path / name if path.is_dir() else path).read_bytes()
            digest.update(f"{name}\0{len(contents)}\0".encode() + contents)
    except _ABSENT:
        return MISSING
    return digest.hexdigest() if stamp else MISSING
