"""Quoting of the values that a template prints: each value becomes at most one argument of HAProxy.

Every byte with a meaning for HAProxy is written as `\\xHH` (HAProxy's manual, 2.2 "Quoting and escaping"). Outside of
quotes and within double quotes HAProxy reads `\\xHH` as that byte; within single quotes and comments `\\xHH` is
harmless text. So the place where a template prints does not matter.
"""

import re
from pathlib import Path

from jinja2 import Undefined

_PLAIN = re.compile(r"[A-Za-z0-9_.:/@,=+*\[\]()?!&;|~^<>-]+")
_SPECIAL = re.compile(rb"[^A-Za-z0-9_.:/@,=+*\[\]()?!&;|~^<>-]")
_PLAIN_IN_EXPRESSION = re.compile(r"[A-Za-z0-9_.:/@=+-]+")
_CONTROL = re.compile(r"[\x00-\x1f\x7f\x80-\x9f\u2028\u2029\ud800-\udfff]")

_BRACES = ("{", "}")


class Raw(str):
    """Text that is printed unquoted: HAProxy's own syntax, which comes from the configuration, never from a record."""

    __slots__ = ()


def argument(value: object) -> Raw:
    """Return the text as a single argument. Control characters, which no argument needs, become '?'.

    HAProxy has no empty argument, and takes an empty argument for the end of the line: "_" stands for empty text.
    """
    text = str(value) or "_"
    if _PLAIN.fullmatch(text):
        return Raw(text)
    clean = _CONTROL.sub("?", text).encode()
    return Raw(_SPECIAL.sub(lambda match: b"\\x%02x" % ord(match[0]), clean).decode())


def expression_argument(value: object) -> Raw:
    """Return the text as an argument between the parentheses of a sample expression, such as a file's path.

    HAProxy splits such arguments at commas and parentheses, and reads quotes and backslashes, a second time.
    """
    text = str(value)
    if _PLAIN_IN_EXPRESSION.fullmatch(text):
        return Raw(text)
    escaped = re.sub(r'(["\\])', r"\\\1", text)
    return argument(f'"{escaped}"')


def finalize(value: object) -> str:
    """Return what `{{ value }}` prints: an argument that HAProxy takes as data wherever HAProxy parses arguments.

    `%` is doubled, since HAProxy may parse the argument as a log format. An argument that looks like a flag (`-f`) or
    like the brace of a condition is prefixed with "_". Raises TypeError for any value but text, numbers and paths, and
    UndefinedError for an undefined name.
    """
    if isinstance(value, Raw):
        return value
    if isinstance(value, Undefined):
        return str(value)  # raises UndefinedError: the environment uses StrictUndefined
    if isinstance(value, bool) or not isinstance(value, str | int | float | Path):
        raise TypeError(f"cannot print {value!r}: it is not a text or a number"[:200])
    if not isinstance(value, str):
        return argument(value)
    text = value.replace("%", "%%")
    return argument(f"_{text}" if text.startswith("-") or text in _BRACES else text)


def raw(value: object) -> Raw:
    """Return text that is printed unquoted: HAProxy's syntax, several words or a macro's output (the filter `raw`)."""
    return Raw(value)
