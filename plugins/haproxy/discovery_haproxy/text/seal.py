"""The mark and the seal in the first line of a file that the plugin writes.

The mark tells the file from a person's file, and the seal, a digest, tells the plugin's own text from an edited text.
The seal is in the file itself, so that any daemon on any machine can tell, also without its state directory. Pure.
"""

import hashlib
import re

MARK = "# Written by discovery"
"""Begin of the first line of each file that the plugin writes (`templates/head.cfg.j2`)."""

_SEAL = re.compile(r" \(sha256 [0-9a-f]{16}\)$")
_DIGEST_CHARACTERS = 16
"""Hexadecimal characters of the digest: 64 bits, so that no edit leaves the digest valid by chance."""


def seal(text: str) -> str:
    """Return `text` with a digest of all of it at the end of the first line."""
    first, newline, rest = text.partition("\n")
    digest = hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:_DIGEST_CHARACTERS]
    return f"{first} (sha256 {digest}){newline}{rest}"


def unseal(text: str) -> str:
    """Return the text that `seal` made `text` from; `text` itself if there is no digest."""
    first, newline, rest = text.partition("\n")
    return f"{_SEAL.sub('', first)}{newline}{rest}"


def is_sealed(text: str) -> bool:
    """Return True if `text` is exactly as `seal` returned it."""
    return seal(unseal(text)) == text
