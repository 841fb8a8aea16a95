"""Terminals: text without control sequences, and whether a terminal shows colours."""

import os
from typing import TextIO


def shows_colours(stream: TextIO) -> bool:
    """True if `stream` is a terminal with colours and NO_COLOR is not set (https://no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def printable(text: str) -> str:
    r"""Return `text` on one line: characters on which a terminal or log acts become escapes such as `\n` and `\x1b`."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
