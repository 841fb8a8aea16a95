"""Whether the files of a configuration are on the disk as they were installed."""

from pathlib import Path

from discovery_haproxy.deployment.install import has_contents
from discovery_haproxy.rendering.render import Rendered
from discovery_haproxy.text.seal import seal

_Stamp = tuple[int, int, int, int]
"""Inode number, size, and times of modification and of change of a file."""


class OnDisk:
    """Compares files with configurations. A file is read again only when its inode data have changed."""

    def __init__(self) -> None:
        """Begin without a comparison."""
        self._found: tuple[str, tuple[_Stamp | None, ...]] | None = None

    def has(self, path: Path, rendered: Rendered) -> bool:
        """Report whether the configuration file, sealed or not, and its map files have the rendered contents."""
        now = rendered.generation, tuple(map(_stamp, (path, *rendered.maps)))
        if self._found != now:
            self._found = now if _is_written(path, rendered) else None
        return self._found is not None


def _is_written(path: Path, rendered: Rendered) -> bool:
    text = has_contents(path, rendered.text) or has_contents(path, seal(rendered.text))
    return text and all(has_contents(each, contents) for each, contents in rendered.maps.items())


def _stamp(path: Path) -> _Stamp | None:
    try:
        state = path.stat()
    except OSError:
        return None
    return state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns
