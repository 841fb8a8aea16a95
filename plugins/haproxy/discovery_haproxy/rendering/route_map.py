"""The map of routes: a file that HAProxy loads with the configuration, and looks a request's host and path up in.

An entry is a frontend's name with the key of a route, and the name of a `backend` section:
`frontend:127.0.0.1:8080/*.example.com/api/ shop`. The file has a fixed name, so that entries are also changed while
HAProxy runs. The configuration contains the digest of the file's contents, which tells which file belongs to which
configuration.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from discovery_haproxy.rendering.quoting import argument
from discovery_haproxy.text.contents import map_comment
from discovery_haproxy.text.seal import MARK


def route_map_path(config: Path) -> Path:
    """Return the path of the map that belongs to the configuration file `config`, beside that file."""
    return config.with_suffix(".routes.map")


def route_map(entries: Iterable[tuple[str, str]]) -> str:
    """Return the contents of the file. Keys and values are words of validated characters, without spaces."""
    return "".join((f"{MARK}: changes made here are lost.\n", *(f"{key} {section}\n" for key, section in entries)))


def digest_comment(path: Path, contents: str) -> str:
    """Return the line of a configuration that names the digest of the map's contents."""
    return map_comment(argument(path), hashlib.sha256(contents.encode()).hexdigest())


def belongs_to(path: Path, contents: str, config: str) -> bool:
    """Report whether the text of a configuration was rendered together with these contents of the map at `path`."""
    return f"\n{digest_comment(path, contents)}" in config
