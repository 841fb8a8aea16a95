"""The static files of the page: style, scripts and icon, read once, each with a hash of its contents in its path."""

from hashlib import blake2s
from importlib.resources import files
from typing import NamedTuple

TYPES = {
    "style.css": "text/css",
    "page.js": "text/javascript",
    "shared.js": "text/javascript",
    "icon.svg": "image/svg+xml",
}
"""The static files, and the types of their contents."""


class Static(NamedTuple):
    """A file: its name, type and contents, and the hash."""

    name: str
    type: str
    body: bytes
    digest: str

    @property
    def path(self) -> str:
        """The path of this version of the file, which a browser may keep for ever."""
        return f"/static/{self.name}?v={self.digest}"


def load() -> dict[str, Static]:
    """Return the files by their names. Raises OSError if they cannot be read."""
    folder = files(__package__).joinpath("static")
    bodies = {name: folder.joinpath(name).read_bytes() for name in TYPES}
    return {name: Static(name, TYPES[name], body, _digest(body)) for name, body in bodies.items()}


def _digest(body: bytes) -> str:
    return blake2s(body, digest_size=8).hexdigest()
