"""Names of sections and servers that HAProxy accepts, and hashes that stand for texts."""

import hashlib
import re
from collections.abc import Iterable

from discovery_haproxy.text.server_line import HOLDING_SERVER

_HASH_CHARACTERS = 16
"""Hexadecimal characters of a hash in a name or cookie: 64 bits, so that no two names of one registry collide."""
_NAME = re.compile(rf"[A-Za-z0-9_.:-]{{1,128}}(?<!-[0-9a-f]{{{_HASH_CHARACTERS}}})")
"""A name that HAProxy accepts, and that does not end as a name with a hash."""
QUOTED_CHARACTERS = 200
"""Characters of a name from the registry in a message, which is one line."""
_CACHE_CHARACTERS = 32
"""Characters of the longest name of a cache."""
_READABLE_CHARACTERS = 64
"""Characters of the original text in a hashed name."""


def accepted_names(texts: Iterable[str]) -> dict[str, str]:
    """Return a name for each text that HAProxy accepts, unique and independent of the other texts."""
    return {text: accepted_name(text) for text in texts}


def accepted_name(text: str) -> str:
    """Return the text if HAProxy accepts the text as a name, and otherwise a readable form with a hash."""
    # A text that looks like a hashed name is hashed as well, so that no text can get the name of another.
    if _NAME.fullmatch(text) and text != HOLDING_SERVER:
        return text
    readable = re.sub(r"[^A-Za-z0-9_.:-]", "_", text[:_READABLE_CHARACTERS])
    return f"{readable}-{text_hash(text)}"


def cache_name(section: str) -> str:
    """Return the name of the cache of a `backend` section, which no section of a user has."""
    prefix = "discovery:"
    return f"{prefix}{section if len(prefix + section) <= _CACHE_CHARACTERS else text_hash(section)}"


def text_hash(text: str) -> str:
    """Return a hash of the text, in hexadecimal digits."""
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:_HASH_CHARACTERS]
