"""The map of routes: a file that HAProxy loads with the configuration, and looks a request's host and path up in.

An entry is a frontend's name with the key of a route, and the name of a `backend` section:
`frontend:127.0.0.1:8080/*.example.com/api/ shop`. The file has a fixed name, so that entries can also be changed while
HAProxy runs. The configuration contains the digest of the file's contents, which tells which file belongs to which
configuration.
"""

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path

from discovery_haproxy.text.seal import MARK

_DIGEST = re.compile(r"^# Map of routes: ([0-9a-f]+)$", re.MULTILINE)
_DIGEST_CHARACTERS = 16
"""Hexadecimal characters of a digest: 64 bits, so that no two maps of one machine are equal by chance."""


def route_map_path(config: Path) -> Path:
    """Return the path of the map that belongs to the configuration file `config`, beside that file."""
    return config.with_suffix(".routes.map")


def route_map(entries: Iterable[tuple[str, str]]) -> str:
    """Return the contents of the file. Keys and values are words of validated characters, without spaces."""
    return "".join((f"{MARK}: changes made here are lost.\n", *(f"{key} {section}\n" for key, section in entries)))


def digest_comment(contents: str) -> str:
    """Return the line of a configuration that names the digest of the map's contents."""
    return f"# Map of routes: {_digest(contents)}"


def belongs_to(contents: str, config: str) -> bool:
    """Report whether the text of a configuration was rendered together with these contents of the map."""
    found = _DIGEST.search(config)
    return found is not None and found[1] == _digest(contents)


def _digest(contents: str) -> str:
    return hashlib.sha256(contents.encode()).hexdigest()[:_DIGEST_CHARACTERS]
