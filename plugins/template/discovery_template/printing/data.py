"""Formats of data: JSON, YAML, a hosts file, and plain text."""

import json
import re
from dataclasses import dataclass
from functools import lru_cache

from discovery_template.printing.marks import UnprintableError, scalar_text, shown

_VALUE = "value"
_STRING = "string"
_SURROGATE = re.compile("[\ud800-\udfff]")
_YAML_ESCAPED = re.compile('[\x00-\x1f"\\\\\x7f-\xa0\u2028\u2029\ufeff]')
_YAML_PLAIN = re.compile(r"[A-Za-z0-9_./-]*")
_YAML_FIRST = re.compile(r"[A-Za-z0-9_]?")
_HOSTS_WORD = re.compile(r"[A-Za-z0-9_.:%-]+")


def _json(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False, sort_keys=True)
    if _SURROGATE.search(text):
        raise UnprintableError(f"{shown(text)} has half of a surrogate pair, which no file can have")
    return text


@dataclass(frozen=True)
class Json:
    """JSON: a value is text in quotes, a number, true, false, null, a list or a table; within quotes it is text."""

    start: str = _VALUE

    def advance(self, state: str, text: str) -> str:
        """Return the state after `text`."""
        return _advance_json(state, text)

    def quote(self, state: str, value: object, following: str) -> tuple[str, str]:
        """Return the written form of a value, and the next state. `following` has no influence."""
        if state == _STRING:
            text = value if isinstance(value, str) else scalar_text(value)
            return _json(text)[1:-1], state
        return _json(value), state


@lru_cache(maxsize=4096)
def _advance_json(state: str, text: str) -> str:
    at = 0
    while at < len(text):
        character = text[at]
        at += 2 if character == "\\" and state == _STRING else 1
        if character == '"':
            state = _VALUE if state == _STRING else _STRING
    return state


@dataclass(frozen=True)
class Yaml:
    """YAML: a value is a scalar of its own, in quotes if it is text, or a part of a quoted or plain scalar."""

    start: str = "start"

    def advance(self, state: str, text: str) -> str:
        """Return the state after `text`."""
        return _advance_yaml(state, text)

    def quote(self, state: str, value: object, following: str) -> tuple[str, str]:
        """Return the written form of a value, and the next state. Raises UnprintableError."""
        if state == "comment":
            return scalar_text(value), state
        if state == "double":
            return _yaml_double(value if isinstance(value, str) else scalar_text(value)), state
        if state == "single":
            return scalar_text(value).replace("'", "''"), state
        alone = not following or following[0] in " \t\r\n,]}" or re.match(r":(\s|$)", following)
        if state == "start" and alone:
            return _yaml(value), "word"
        text = scalar_text(value)
        if not _YAML_PLAIN.fullmatch(text) or (state == "start" and not _YAML_FIRST.match(text)[0]):  # type: ignore[index]
            raise UnprintableError(f'{shown(text)} is a part of a plain YAML scalar: write "..." around the whole')
        return text, "word"


@lru_cache(maxsize=4096)
def _advance_yaml(state: str, text: str) -> str:
    at = 0
    while at < len(text):
        character = text[at]
        at += 1
        if state == "double":
            if character == "\\":
                at += 1
            elif character == '"':
                state = "word"
        elif state == "single":
            if character == "'" and text[at : at + 1] == "'":
                at += 1
            elif character == "'":
                state = "word"
        elif character == "\n":
            state = "start"
        elif state == "comment":
            continue
        elif character in " \t\r,[]{}":
            state = "start"
        elif state == "start" and character in "\"'#":
            state = {'"': "double", "'": "single", "#": "comment"}[character]
        else:
            state = "word"
    return state


def _yaml(value: object) -> str:
    """Return a value in flow style, which is JSON but for the escapes of text."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_yaml(str(key))}: {_yaml(each)}" for key, each in sorted(value.items())) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_yaml, value)) + "]"
    return f'"{_yaml_double(value)}"' if isinstance(value, str) else json.dumps(value)


def _yaml_double(text: str) -> str:
    if _SURROGATE.search(text):
        raise UnprintableError(f"{shown(text)} has half of a surrogate pair, which no file can have")
    return _YAML_ESCAPED.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


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
