"""Filters and tests that users of confd and consul-template know, by the conventions of Jinja2. Pure."""

import base64
import binascii
import hashlib
import json
import posixpath
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any

from markupsafe import Markup

from discovery_template.printing.marks import MARK, UnprintableError, shown
from discovery_template.printing.views import BackendView

_TRUE = frozenset({"1", "t", "true", "yes", "on"})
_FALSE = frozenset({"0", "f", "false", "no", "off", ""})


def raw(text: object) -> Markup:
    """Return text that is printed as it is: the author of the template answers for it. Raises UnprintableError."""
    if isinstance(text, Markup):
        return text
    if MARK in str(text):
        raise UnprintableError("the text has the character U+001A, which cannot be printed raw")
    return Markup(str(text))  # noqa: S704 - as the name says


def split(text: str, separator: str | None = None) -> list[str]:
    """Return the parts of a text between separators; without a separator its words. Empty text has no part."""
    return text.split(separator) if text else []


def trim_prefix(text: str, prefix: str) -> str:
    """Return the text without the prefix, if the text begins with the prefix."""
    return text.removeprefix(prefix)


def trim_suffix(text: str, suffix: str) -> str:
    """Return the text without the suffix, if the text ends with the suffix."""
    return text.removesuffix(suffix)


def parse_bool(text: object) -> bool:
    """Return a boolean: 1, t, true, yes and on are true; 0, f, false, no, off and nothing are false."""
    word = str(text).strip().lower()
    if word not in _TRUE | _FALSE:
        raise UnprintableError(f"{text!a} is neither true nor false")
    return word in _TRUE


def from_json(text: str) -> object:
    """Return the value that a JSON text describes. Raises UnprintableError."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise UnprintableError(f"{ascii(text)[:60]} is not JSON") from None


def base64_encode(text: str) -> str:
    """Return the text, as UTF-8, in base64."""
    return base64.b64encode(text.encode()).decode()


def base64_decode(text: str) -> str:
    """Return the UTF-8 text that is given in base64. Raises UnprintableError."""
    try:
        return base64.b64decode(text, validate=True).decode()
    except (binascii.Error, ValueError):
        raise UnprintableError(f"{ascii(text)[:60]} is not text in base64") from None


def sha256(text: str) -> str:
    """Return the SHA-256 of the text, as UTF-8, in hexadecimal digits."""
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


def regex_replace(text: str, pattern: str, replacement: str) -> str:
    """Return the text with each match of the pattern, a regex of RE2, replaced. Raises UnprintableError."""
    try:
        return str(_compiled(pattern).sub(replacement, text))
    except IndexError:
        raise UnprintableError(f"the replacement {shown(replacement)} names a group that the regex lacks") from None


def matches(text: str, pattern: str) -> bool:
    """Return True if the pattern, a regex of RE2, matches anywhere in the text. Raises UnprintableError."""
    return _compiled(pattern).search(text) is not None


@lru_cache(maxsize=256)
def _compiled(pattern: str) -> Any:
    """Return a regex of RE2: by a regex of Python a label could keep the whole process busy for hours."""
    import re2  # type: ignore[import-untyped]  # imported here: most templates have no regex

    options = re2.Options()
    options.log_errors = False
    try:
        return re2.compile(pattern, options)
    except re2.error as error:
        fault = error.args[0].decode(errors="replace") if error.args and isinstance(error.args[0], bytes) else error
        raise UnprintableError(f"{shown(pattern)} is not a regex of RE2: {fault}") from None


def contains(whole: Iterable[Any] | str, part: Any) -> bool:
    """Return True if the list or text has the part."""
    return part in whole


def with_label(backends: Iterable[BackendView], name: str, *values: str) -> list[BackendView]:
    """Return the backends with a label: with any value, or with one of these values."""
    return [each for each in backends if (each.labels[name] in values if values else name in each.labels)]


def by_label(backends: Iterable[BackendView], name: str) -> list[tuple[str, list[BackendView]]]:
    """Return the values of a label, ordered, each with the backends that have the value. A missing label is empty."""
    groups: dict[str, list[BackendView]] = {}
    for each in backends:
        groups.setdefault(each.labels[name], []).append(each)
    return sorted(groups.items())


def indent(text: str, width: int = 4, first: bool = False) -> str:
    """Return the text with its lines indented, the first line only if `first`; empty lines stay empty."""
    kind = type(text) if isinstance(text, Markup) else str
    blanks = " " * int(width)
    lines = str(text).split("\n")
    return kind("\n".join(f"{blanks}{line}" if line and (at or first) else line for at, line in enumerate(lines)))


FILTERS: Mapping[str, Callable[..., Any]] = {
    "raw": raw,
    "split": split,
    "trim_prefix": trim_prefix,
    "trim_suffix": trim_suffix,
    "parse_bool": parse_bool,
    "from_json": from_json,
    "base64_encode": base64_encode,
    "base64_decode": base64_decode,
    "sha256": sha256,
    "regex_replace": regex_replace,
    "basename": posixpath.basename,
    "dirname": posixpath.dirname,
    "with_label": with_label,
    "by_label": by_label,
    "indent": indent,
}
TESTS: Mapping[str, Callable[..., bool]] = {"matching": matches, "containing": contains}
FOR_PRINTED_TEXT = frozenset(
    {"raw", "indent", "trim", "default", "d", "join", "list", "first", "last", "length", "count"}
)
"""Filters that text which is printed already may pass through."""
REMOVED = ("safe", "escape", "e", "forceescape", "urlize", "xmlattr", "random", "striptags", "pprint")
"""Filters of Jinja2 that print HTML, or another text each time."""
