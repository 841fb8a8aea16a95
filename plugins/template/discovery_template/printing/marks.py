"""Printed values within the output of a template: marked, so that what is data stays apart from the template's text.

A template prints a value as a mark with the value in it. Once the whole text is there, each value is quoted by the
format of the file, which then knows where the value stands: at the beginning of a word, within quotes, in a comment.
"""

import json
import re
from collections.abc import Mapping
from json.encoder import encode_basestring_ascii
from typing import Protocol, TypeVar

import jinja2
from markupsafe import Markup

MARK = "\x1a"
"""Encloses a printed value, as JSON in ASCII, which has no such character."""

_STAND_IN = "x"
"""Stands for a refused value while the values after it are looked at."""
_PLACE_CHARACTERS = 40
"""Characters of a line before a refused value: enough to find the place in the template."""


class UnprintableError(ValueError):
    """A value cannot be written at its place in the file.

    `marks` name the refused values, or the line of the template, so that the same fault is known in another rendering.
    """

    def __init__(self, message: str, marks: frozenset[str] = frozenset()) -> None:
        """Store the arguments."""
        super().__init__(message)
        self.marks = marks


S = TypeVar("S")
"""A place in a file, as a format sees the place: immutable and hashable."""


class Format(Protocol[S]):
    """The syntax of a file: follows the text from place to place, and quotes values. Pure."""

    @property
    def start(self) -> S:
        """State at the beginning of the file."""

    def advance(self, state: S, text: str) -> S:
        """Return the state after `text`, a part of the template's own text."""

    def quote(self, state: S, value: object, following: str) -> tuple[str, S]:
        """Return the written form of `value` and the next state.

        `following` is the template's own text up to the next value, for which MARK stands at its end; empty at the end
        of the file. Raises UnprintableError.
        """


def marked(value: object) -> Markup:
    """Return the mark of a value; text that is printed already is returned as given. Raises UnprintableError."""
    if isinstance(value, Markup):
        return value
    if isinstance(value, jinja2.Undefined):
        return Markup(str(value))  # noqa: S704 - raises the error, or is empty: `x if y` without else
    if type(value) is str:  # nearly every value
        return Markup(f"{MARK}{encode_basestring_ascii(value)}{MARK}")  # noqa: S704 - as below
    try:
        text = json.dumps(value, default=_plain)
    except (TypeError, ValueError):
        raise UnprintableError(f"a {type(value).__name__} is no text, number or list: print an attribute") from None
    return Markup(f"{MARK}{text}{MARK}")  # noqa: S704 - the mark is quoted by the format


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError


def printed(output: str, form: Format[S]) -> str:
    """Return a template's output with each marked value quoted for its place.

    Raises UnprintableError for the first value that is refused, with the text that stands before the value on its line,
    and with all refused values as marks.
    """
    parts = output.split(MARK)
    state = form.advance(form.start, parts[0])
    written = [parts[0]]
    last = len(parts) - 2
    message, marks = "", set()
    for at in range(1, len(parts), 2):
        own = parts[at + 1]
        try:
            text, state = form.quote(state, json.loads(parts[at]), own if at == last else own + MARK)
        except UnprintableError as error:
            message = message or f"{error} ({_place(''.join(written))})"
            marks.add(parts[at])
            text = _STAND_IN
            state = form.advance(state, text)
        written += (text, own)
        state = form.advance(state, own)
    if marks:
        raise UnprintableError(message, frozenset(marks))
    return "".join(written)


def _place(before: str) -> str:
    line = before.rpartition("\n")[2].lstrip()
    if not line:
        return "at the beginning of a line"
    shortened = "" if len(line) <= _PLACE_CHARACTERS else "..."
    return f"after {shortened}{line[-_PLACE_CHARACTERS:]!a}"


_SURROGATE = re.compile("[\ud800-\udfff]")
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ufeff\ud800-\udfff\ufffe\uffff]")
"""Control characters, separators of lines, the byte order mark, halves of surrogate pairs, and what is no character."""


def scalar_text(value: object) -> str:
    """Return the text of a value that stands on one line. Raises UnprintableError."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, str | int | float):
        kind = "nothing" if value is None else "a list or table"
        raise UnprintableError(f"{kind} cannot be written into this format: print text or a number")
    text = str(value)
    if match := _CONTROL.search(text):
        raise UnprintableError(f"{shown(text)} has the character U+{ord(match[0]):04X}, which the file cannot have")
    return text


def without_surrogates(text: str) -> str:
    """Return the text. Raises UnprintableError if the text has half of a surrogate pair, which no file can have."""
    if _SURROGATE.search(text):
        raise UnprintableError(f"{shown(text)} has half of a surrogate pair, which no file can have")
    return text


def shown(text: str) -> str:
    """Return a value as a message shows the value: in one line, at most 60 characters."""
    quoted = ascii(text)
    return quoted if len(quoted) <= 60 else f"{quoted[:57]}..."
