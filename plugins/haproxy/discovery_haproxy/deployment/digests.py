"""Digests of the files that a configuration names. A file is read again only when its inode data have changed.

HAProxy loads a certificate with the files beside it, such as `site.pem.key`: the digest of a file covers these, too.
"""

import hashlib
import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

BESIDE_A_CERTIFICATE = (".key", ".ocsp", ".issuer", ".sctl")
"""Suffixes of the files that HAProxy loads by themselves with a certificate of the same name."""
BUNDLED = (".rsa", ".ecdsa", ".dsa")
"""Suffixes of the files that HAProxy loads in place of a certificate that does not exist."""

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
        self._directories: dict[Path, tuple[_Stamp, dict[Path, str]]] = {}

    def read(self, paths: Iterable[Path]) -> dict[Path, str]:
        """Return the digest of each path: of a file's contents, or of the contents of every file in a directory.

        Raises OSError if a file cannot be read although this user may read the file, as without a free descriptor.
        """
        return {path: self._digest(path, _look(path)) for path in paths}

    def read_certificates(self, paths: Iterable[Path]) -> dict[Path, str]:
        """Return the digest of each certificate file at one of the paths, or in a directory at one of the paths.

        Raises OSError as `read`.
        """
        digests: dict[Path, str] = {}
        for path in paths:
            look = _look(path)
            if not look.is_directory:
                if look.stamp and look.stamp[0][0] == path.name:  # not for a bundle in place of the file
                    digests[path] = self._digest(path, look)
                continue
            known = self._directories.get(path)
            if known is None or known[0] != look.stamp:
                names = [name for name, *_ in look.stamp if not name.endswith(BESIDE_A_CERTIFICATE)]
                known = self._directories[path] = (look.stamp, self.read(path / name for name in names))
            digests |= known[1]
        return digests

    def changed(self, paths: Iterable[Path]) -> bool:
        """Report whether any of the paths has changed since the path was last read."""
        return any(path in self._known and self._known[path][0] != _look(path).stamp for path in paths)

    def _digest(self, path: Path, look: "_Look") -> str:
        known = self._known.get(path)
        if known is None or known[0] != look.stamp:
            known = self._known[path] = (look.stamp, _digest(path, look))
        return known[1]


def files_at(path: Path) -> list[Path]:
    """Return the file at `path`, or the files of the directory `path`; nothing if the directory cannot be read."""
    try:
        return sorted(path.iterdir()) if path.is_dir() else [path]
    except OSError:
        return []


def beside(path: Path) -> list[Path]:
    """Return where HAProxy looks for files that belong to the certificate at `path`."""
    return [path.with_name(path.name + suffix) for suffix in (*BESIDE_A_CERTIFICATE, *BUNDLED)]


class _Look(NamedTuple):
    """A path as it is now."""

    is_directory: bool
    stamp: _Stamp


def _look(path: Path) -> _Look:
    own = _state(str(path))
    is_directory = own is not None and stat.S_ISDIR(own.st_mode)
    try:
        if is_directory:
            states = [(file.name, file.stat()) for file in sorted(path.iterdir()) if file.is_file()]
        else:
            states = _states_of_file(path, own)
    except _ABSENT:
        states = []
    # Not the time of modification, which programs such as `cp -p` set.
    return _Look(is_directory, tuple((name, state.st_ctime_ns, state.st_size, state.st_ino) for name, state in states))


def _states_of_file(path: Path, own: os.stat_result | None) -> list[tuple[str, os.stat_result]]:
    """Return the states of a file and of the files beside the file, or of the files of a bundle in its place."""
    name = str(path)  # quicker than paths, which matters with hundreds of certificates
    if own is not None:
        beside = ((suffix, _state(name + suffix)) for suffix in BESIDE_A_CERTIFICATE)
        return [(path.name, own), *((path.name + suffix, state) for suffix, state in beside if state)]
    bundle = [suffix for suffix in BUNDLED if _state(name + suffix)]
    parts = [suffix + each for suffix in bundle for each in ("", *BESIDE_A_CERTIFICATE)]
    return [(path.name + part, state) for part in parts if (state := _state(name + part))]


def _state(name: str) -> os.stat_result | None:
    try:
        return os.stat(name)  # noqa: PTH116 - quicker than a path's method
    except _ABSENT:
        return None


def _digest(path: Path, look: _Look) -> str:
    digest = hashlib.sha256()
    directory = path if look.is_directory else path.parent
    try:
        for name, *state in look.stamp:
            is_beside = not look.is_directory and name != path.name
            contents = _contents(directory / name, repr(state) if is_beside else None)
            digest.update(f"{name}\0{len(contents)}\0".encode() + contents)
    except _ABSENT:
        return MISSING
    return digest.hexdigest() if look.stamp else MISSING


def _contents(file: Path, instead: str | None) -> bytes:
    """Return the contents of a file, or else the text `instead` if HAProxy alone may read the file."""
    try:
        return file.read_bytes()
    except PermissionError:
        if instead is None:
            raise
        return instead.encode()
