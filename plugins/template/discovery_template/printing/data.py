"""Formats of data: JSON, a hosts file, and plain text. YAML has a module of its own."""

import json
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, NamedTuple

from discovery_template.printing.marks import UnprintableError, scalar_text, shown, without_surrogates

_HOSTS_WORD = re.compile(r"[A-Za-z0-9_.:%-]+")


class JsonState(NamedTuple):
    """A place in a JSON file: within quotes or not, and after a backslash or not."""

    quoted: bool = False
    escaped: bool = False


@dataclass(frozen=True)
class Json:
    """JSON: a value is text in quotes, a number, true, false, null, a list or a table; within quotes it is text."""

    start: ClassVar[JsonState] = JsonState()

    def advance(self, state: JsonState, text: str) -> JsonState:
        """Return the state after `text`."""
        return _advance_json(state, text)

    def quote(self, state: JsonState, value: object, following: str) -> tuple[str, JsonState]:
        """Return the written form of a value, and the next state. `following` has no influence."""
        if state.escaped:
            raise UnprintableError(f"{shown(str(value))} stands after a backslash, and would be an escape")
        if state.quoted:
            text = value if isinstance(value, str) else scalar_text(value)
            return json_text(text)[1:-1], state
        return json_text(value), state


@lru_cache(maxsize=4096)
def _advance_json(state: JsonState, text: str) -> JsonState:
    quoted, escaped = state
    for character in text:
        if escaped:
            escaped = False
        elif character == '"':
            quoted = not quoted
        else:
            escaped = quoted and character == "\\"
    return JsonState(quoted, escaped)


def json_text(value: object) -> str:
    """Return the form of a value in JSON. Raises UnprintableError."""
    try:
        return without_surrogates(json.dumps(value, ensure_ascii=False, sort_keys=True, allow_nan=False))
    except UnprintableError:
        raise
    except ValueError:
        raise UnprintableError("a number that is infinite or none (NaN) has no form in JSON") from None


@dataclass(frozen=True)
class Hosts:
    """A hosts file: addresses and names, separated by blanks."""

    start: str = "start"

    def advance(self, state: str, text: str) -> str:
        """Return the state after `text`."""
        last = text.rpartition("\n")[2]
        return "comment" if "#" in last or ("\n" not in text and state == "comment") else "start"

    def quote(self, state: str, value: object, following: str) -> tuple[str, str]:
        """Return the value. Raises UnprintableError unless the value is a word. `following` has no influence."""
        text = scalar_text(value)
        if state != "comment" and not _HOSTS_WORD.fullmatch(text):
            raise UnprintableError(f"{shown(text)} is neither an address nor a name")
        return text, state


@dataclass(frozen=True)
class Plain:
    """Text without a syntax: a value is on one line."""

    start: str = "start"

    def advance(self, state: str, text: str) -> str:
        """Return the only state; `text` has no influence."""
        return state

    def quote(self, state: str, value: object, following: str) -> tuple[str, str]:
        """Return the value. Raises UnprintableError for control characters. `following` has no influence."""
        return scalar_text(value), state
