"""The contents of the files that a configuration names, as digests: read again only when the files look different."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

_MISSING = "missing"
Look = tuple[tuple[str, int, int, int], ...]


class Digests:
    """Remembers how files looked when they were last read."""

    def __init__(self) -> None:
        """Remember nothing yet."""
        self._known: dict[Path, tuple[Look, str]] = {}

    def of(self, paths: Iterable[Path]) -> dict[Path, str]:
        """The digest of each path: of a file's contents, or of those of every file in a directory."""
        digests = {}
        for path in paths:
            look = _look(path)
            known = self._known.get(path)
            if known is None or known[0] != look:
                known = self._known[path] = (look, _read(path, look))
            digests[path] = known[1]
        return digests

    def changed(self, paths: Iterable[Path]) -> bool:
        """Whether any of the paths looks different from when it was last read."""
        return any(path in self._known and self._known[path][0] != _look(path) for path in paths)


def files_at(path: Path) -> list[Path]:
    """The file at `path`, or those of the directory there; none if it cannot be read, or vanishes meanwhile."""
    try:
        return sorted(path.iterdir()) if path.is_dir() else [path]
    except OSError:
        return []


def _look(path: Path) -> Look:
    try:
        states = [(file.name, file.stat()) for file in files_at(path) if path is file or file.is_file()]
    except OSError:
        return ()
    # Not the time of modification, which `cp -p` and the like set.
    return tuple((name, state.st_ctime_ns, state.st_size, state.st_ino) for name, state in states)


def _read(path: Path, look: Look) -> str:
    digest = hashlib.sha256()
    try:
        for name, *_ in look:
            contents = (path / name if path.is_dir() else path).read_bytes()
            digest.update(f"{name}\0{len(contents)}\0".encode() + contents)
    except OSError:
        return _MISSING
    return digest.hexdigest() if look else _MISSING
