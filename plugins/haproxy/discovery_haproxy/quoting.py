"""What a template prints becomes one argument of HAProxy's at most, whatever is in it.

Every byte that could mean something is written as `\\xHH` (HAProxy's configuration manual, 2.2 "Quoting and escaping"),
which reads back as that byte outside of quotes and within double quotes, and is harmless text within single quotes and
comments: so the place where a template prints does not matter.
"""

import re
from pathlib import Path

from jinja2 import Undefined

_PLAIN = re.compile(r"[A-Za-z0-9_.:/@,=+*\[\]()?!&;|~^<>-]+")
_SPECIAL = re.compile(rb"[^A-Za-z0-9_.:/@,=+*\[\]()?!&;|~^<>-]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f\x80-\x9f\u2028\u2029\ud800-\udfff]")

_BRACES = ("{", "}")


class Raw(str):
    """Text that is printed as it stands: HAProxy's own syntax, from the configuration alone."""

    __slots__ = ()


def argument(value: object) -> Raw:
    """The text as exactly one argument; control characters, which no argument needs, become '?'.

    HAProxy knows no empty argument, and takes one for the end of the line: "_" stands for it.
    """
    text = str(value) or "_"
    if _PLAIN.fullmatch(text):
        return Raw(text)
    clean = _CONTROL.sub("?", text).encode()
    return Raw(_SPECIAL.sub(lambda match: b"\\x%02x" % ord(match[0]), clean).decode())


def finalize(value: object) -> str:
    """What `{{ value }}` prints: an argument that stays data wherever HAProxy looks into arguments.

    `%` is doubled, since it may be read as a log format. What could be taken for a flag (`-f`) or for the brace of a
    condition begins with "_". Raises TypeError for what is no text, number or path, and UndefinedError for an
    undefined name.
    """
    if isinstance(value, Raw):
        return value
    if isinstance(value, Undefined):
        return str(value)  # raises: the environment's undefined is strict
    if isinstance(value, bool) or not isinstance(value, str | int | float | Path):
        raise TypeError(f"cannot print {value!r}: it is not a text or a number"[:200])
    if not isinstance(value, str):
        return argument(value)
    text = value.replace("%", "%%")
    return argument(f"_{text}" if text.startswith("-") or text in _BRACES else text)


def raw(value: object) -> Raw:
    """The filter that prints text as it stands: HAProxy's syntax, several words or a macro's output."""
    return Raw(value)
