"""Contents that a running HAProxy holds in memory, and that the runtime API replaces: certificates and maps. Pure.

HAProxy reads these files when it starts. The comments at the beginning of a configuration name the digests of the
files, so that a text tells with which contents it is to be served.
"""

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

_COMMENTS = re.compile(r"(?:#[^\n]*\n)*")
_CERTIFICATE = re.compile(r"^# Certificate (\S+): ([0-9a-f]+)$", re.MULTILINE)
_MAP = re.compile(r"^# Map (\S+): ([0-9a-f]+)$", re.MULTILINE)
_DIGEST_CHARACTERS = 16
"""Hexadecimal characters of a digest: 64 bits, so that no two contents of one machine are equal by chance."""
_REPLACEABLE = re.compile(r"/[A-Za-z0-9_.:,/@%+=~-]+")
"""A path that is one word with one meaning in the configuration, in a comment and in a command."""
_NONE: Mapping[str, str] = MappingProxyType({})


class Contents(NamedTuple):
    """Digests of certificate files and of map files, by path. The digest of unknown contents is empty."""

    certificates: Mapping[str, str] = _NONE
    maps: Mapping[str, str] = _NONE


NO_CONTENTS = Contents()


def certificate_comment(path: str, digest: str) -> str:
    """Return the line of a configuration that names the digest of a certificate file and of the files beside it."""
    return f"# Certificate {path}: {digest[:_DIGEST_CHARACTERS]}\n"


def map_comment(path: str, digest: str) -> str:
    """Return the line of a configuration that names the digest of a map file."""
    return f"# Map {path}: {digest[:_DIGEST_CHARACTERS]}\n"


def contents_in(text: str) -> Contents:
    """Return the digests of replaceable files that the comments at the beginning of a configuration name."""
    comments = _COMMENTS.match(text)
    lines = comments[0] if comments else ""
    return Contents(_replaceable(_CERTIFICATE.findall(lines)), _replaceable(_MAP.findall(lines)))


def is_replaceable(path: str) -> bool:
    """Report whether commands can name the file."""
    return _REPLACEABLE.fullmatch(path) is not None


def _replaceable(found: list[tuple[str, str]]) -> Mapping[str, str]:
    return {path: digest for path, digest in found if is_replaceable(path)}
