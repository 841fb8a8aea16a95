"""The operator's own files, which HAProxy loads beside a fragment."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from discovery import ApplyError
from discovery_haproxy.options.external import ExternalConfig
from discovery_haproxy.text.configuration import Inherited
from discovery_haproxy.text.neighbours import NO_NEIGHBOURS, Neighbours, neighbours

_SUFFIX = ".cfg"
"""Suffix of the files that HAProxy loads from a directory."""

_Stamp = tuple[tuple[str, int, int, int], ...]


class OwnFiles:
    """Reads the operator's files, and reads them again when one of them has changed. Each method blocks."""

    def __init__(self, config: ExternalConfig | None) -> None:
        """Store the argument, in which a fragment names the files. No file is read."""
        self._config = config
        self._known: tuple[_Stamp, Neighbours] | None = None
        self.loaded: Inherited | None = None
        """What the live sections inherit from the files that HAProxy has loaded; None if unknown."""

    def read(self) -> Neighbours:
        """Return what the fragment depends on. Raises ApplyError if a file cannot be read."""
        if self._config is None or self._config.fragment is None:
            return NO_NEIGHBOURS
        try:
            self._known = self._read(self._config)
        except OSError as error:
            raise ApplyError(f"{error.filename}, of external.files, cannot be read: {error.strerror}") from None
        return self._known[1]

    def as_loaded(self) -> Neighbours | None:
        """Return the files with the inherited lines that HAProxy has loaded. None if the files have the same lines.

        Raises ApplyError if a file cannot be read.
        """
        present = self.read()
        if self.loaded is None or self.loaded == present.inherited:
            return None
        return present._replace(inherited=self.loaded)

    @property
    def have_changed(self) -> bool:
        """Report whether a file has changed, come or gone since the last `read`."""
        known, config = self._known, self._config
        try:
            return known is not None and config is not None and known is not self._read(config)
        except OSError:
            return False  # `read` will tell

    def changed_since(self, second: int) -> bool:
        """Report whether a file of the last `read` has changed in this second (as of the epoch) or later."""
        return self._known is not None and any(changed // 10**9 >= second for _, changed, _, _ in self._known[0])

    def _read(self, config: ExternalConfig) -> tuple[_Stamp, Neighbours]:
        """Return the stamps of the files and what was read; the last result itself if no file has changed."""
        assert config.file is not None  # noqa: S101 - a fragment is a file
        before, after = order(config.files, config.file)
        stamp = tuple(_stamp(path) for path in (*before, *after))
        if self._known is not None and self._known[0] == stamp:
            return self._known
        return stamp, neighbours(_texts(before), _texts(after))


def order(files: Sequence[Path], fragment: Path) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    """Return the files that HAProxy loads before and after the fragment.

    HAProxy loads the files of a directory that end in `.cfg`, in the order of their names. Without a place in the list
    the fragment is the last file.
    """
    loaded = list(_loaded(files, fragment))
    places = [index for index, path in enumerate(loaded) if _is_same(path, fragment)]
    place = places[0] if places else len(loaded)
    return tuple(loaded[:place]), tuple(path for path in loaded[place:] if not _is_same(path, fragment))


def _texts(paths: Sequence[Path]) -> list[tuple[Path, str]]:
    return [(path, path.read_text(errors="surrogateescape")) for path in paths]


def _is_same(path: Path, fragment: Path) -> bool:
    return path == fragment or path.resolve() == fragment


def _loaded(files: Sequence[Path], fragment: Path) -> Iterator[Path]:
    for path in files:
        if path.is_dir():
            future = {path / fragment.name} if path.resolve() == fragment.parent else set()  # if not written yet
            found = {*path.iterdir(), *future}
            yield from sorted(each for each in found if _is_loaded(each.name) and not each.is_dir())
        else:
            yield path


def _is_loaded(name: str) -> bool:
    return name.endswith(_SUFFIX) and not name.startswith(".")


def _stamp(path: Path) -> tuple[str, int, int, int]:
    state = path.stat()
    return str(path), state.st_ctime_ns, state.st_size, state.st_ino
