"""YAML: follows a template's text from node to node, and writes values as scalars or as parts of scalars."""

import re
from functools import lru_cache
from typing import NamedTuple

from discovery_template.printing.data import json_text
from discovery_template.printing.marks import MARK, UnprintableError, scalar_text, shown, without_surrogates

LINE = "line"
"""At the beginning of a line: only blanks and `- ` so far."""
NODE = "node"
"""Where a node may begin, such as after `key: `."""
PLAIN = "plain"
"""Within a scalar without quotes."""
COLON = "colon"
"""After a colon within a scalar without quotes; a blank would make the scalar a key."""
GAP = "gap"
"""After a blank in a scalar without quotes, which may go on: quotes have no meaning here."""
CLOSED = "closed"
"""After a node that has ended, such as a quoted scalar."""
DOUBLE = "double"
SINGLE = "single"
COMMENT = "comment"
PROPERTY = "property"
"""Within a tag or an anchor."""
HEADER = "header"
"""After `|` or `>`."""
TEXT = "text"
"""Within a line of a block scalar."""

_BLANK = " \t\r"
_FLOW = ",[]{}"
"""What has a meaning in `[...]` and `{...}`, also within a scalar without quotes."""
_FIRST = re.compile(r"[A-Za-z0-9_/]")
"""What may begin a scalar without quotes, whatever follows."""
_LEADING = re.compile(r"[A-Za-z0-9_./]")
"""What of the template's own text may begin a scalar in the place of an empty value."""
_ENDS_NODE = re.compile(r"[ \t\r]*(\n|$)|[ \t]+#|[ \t]*:(?=[ \t\r\n]|$)")
_ENDS_NODE_IN_FLOW = re.compile(r"[ \t\r\n]*([,\]}]|$|:(?=[ \t\r\n,\[\]{}]|$))|[ \t\r\n]+#")
_BREAKS_PLAIN = re.compile(r"^\s|\s$|:(?=\s|$)|\s#")
"""What ends a scalar without quotes, or is no part of its text."""
_MARKER = re.compile(r"(---|\.\.\.)(?=[ \t\r\n]|$)")
"""Begins or ends a document."""
_KEY = re.compile(r"[ \t\r\n]*:")
_LONGEST_KEY = 1000
"""Characters of a key: YAML permits 1024, the quotes included."""
_PROPERTY = re.compile(r"[A-Za-z0-9_-]+")
_ESCAPED = re.compile('[\x00-\x1f"\\\\\x7f-\xa0\u2028\u2029\ufeff\ufffe\uffff]')


class YamlState(NamedTuple):
    """A place in a YAML file.

    `column` is that of the next character at the beginning of a line, and later that of the node which began the line.
    `parent` is the column of the collection that the present node belongs to. Lines that are indented by more than
    `block` belong to a block scalar, and by more than `scalar` to a scalar without quotes; None: there is none. `flow`
    is the number of open `[` and `{`. `escaped` is true after a backslash within quotes.
    """

    where: str = LINE
    column: int = 0
    parent: int = -1
    block: int | None = None
    scalar: int | None = None
    flow: int = 0
    escaped: bool = False


class Yaml:
    """YAML: a value is a scalar of its own, in quotes if it is text, or a part of another scalar."""

    start = YamlState()

    def advance(self, state: YamlState, text: str) -> YamlState:
        """Return the state after `text`."""
        return _advance(state, text)

    def quote(self, state: YamlState, value: object, following: str) -> tuple[str, YamlState]:
        """Return the written form of a value, and the next state. Raises UnprintableError."""
        before, is_first = state, state.where == LINE
        state = _at_node(state) if is_first else state
        match state.where:
            case "node":
                return _node(state, value, following)
            case "plain" | "colon" | "gap":
                return _part(state, scalar_text(value), following)
            case "double":
                if state.escaped:
                    raise UnprintableError(f"{shown(str(value))} stands after a backslash, and would be an escape")
                return _double(value if isinstance(value, str) else scalar_text(value)), state
            case "single":
                return scalar_text(value).replace("'", "''"), state
            case "comment":
                return scalar_text(value), state
            case "text":
                text = _line(scalar_text(value), following, is_first=is_first)
                return text, state if text or not is_first else before
            case "property" if _PROPERTY.fullmatch(text := scalar_text(value)):
                return text, state
        raise UnprintableError(f"{shown(str(value))} stands where YAML has no text")


def _node(state: YamlState, value: object, following: str) -> tuple[str, YamlState]:
    ends = _ENDS_NODE_IN_FLOW if state.flow else _ENDS_NODE
    if ends.match(following):
        written = _written(value)
        if len(written) > _LONGEST_KEY and _KEY.match(following):
            raise UnprintableError(f"{shown(str(value))} is too long for a key of YAML")
        return written, state._replace(where=CLOSED)
    text = scalar_text(value)
    if not text:
        if following[0] == MARK or _LEADING.match(following):
            return text, state  # the rest stands as it would without the value
        rest = re.split(f"[\n{MARK}]", following)[0]
        raise UnprintableError(f'without a value {shown(rest)} would be read as something else: write "..." around')
    if not _FIRST.match(text):
        raise UnprintableError(f'{shown(text)} would begin a scalar without quotes: write "..." around the whole')
    return _part(state._replace(where=PLAIN), text, following)


def _part(state: YamlState, text: str, following: str) -> tuple[str, YamlState]:
    """Return a part of a scalar without quotes, and the next state. Raises UnprintableError."""
    broken = _BREAKS_PLAIN.search(text) or (state.flow and re.search(r"[,\[\]{}?]", text))
    if broken or (state.where == GAP and (text or following).startswith("#")):
        raise UnprintableError(f'{shown(text)} would end the scalar that it stands in: write "..." around the whole')
    if not text and state.where == COLON:
        raise UnprintableError('nothing follows a colon, which would end the scalar: write "..." around the whole')
    return text, state._replace(where=PLAIN) if text else state


def _line(text: str, following: str, *, is_first: bool) -> str:
    """Return a part of a line of a block scalar. Raises UnprintableError."""
    if is_first and (text or following)[:1].isspace() and (text or following)[0] != "\n":
        raise UnprintableError(f"{shown(text)} would indent a line of a block scalar")
    return text


@lru_cache(maxsize=4096)
def _advance(state: YamlState, text: str) -> YamlState:
    at = 0
    while at < len(text):
        if state.where in (LINE, TEXT, COMMENT, HEADER):
            at, state = _in_line(state, text, at)
        elif state.where in (DOUBLE, SINGLE):
            at, state = _in_quotes(state, text, at)
        else:
            at, state = _in_nodes(state, text, at)
    return state


def _in_line(state: YamlState, text: str, at: int) -> tuple[int, YamlState]:
    character = text[at]
    if character == "\n":
        return at + 1, _new_line(state, block=state.parent) if state.where == HEADER else _new_line(state)
    if state.where != LINE:
        return at + 1, state
    if character in _BLANK:
        return at + 1, state._replace(column=state.column + 1)
    if state.column == 0 and (marker := _MARKER.match(text, at)):
        return at + len(marker[0]), YamlState(where=NODE)
    begun = _at_node(state)
    if begun.where != NODE:
        return at, begun
    if character == "#" or (character == "%" and state.column == 0):
        return at + 1, state._replace(where=COMMENT)
    if character in "-?" and text[at + 1 : at + 2].isspace():
        return at + 1, state._replace(column=state.column + 1, parent=state.column, block=None, scalar=None)
    return at, begun


def _at_node(state: YamlState) -> YamlState:
    """Return the state at the first character of a line that is no blank."""
    if state.block is not None and state.column > state.block:
        return state._replace(where=TEXT)
    if state.scalar is not None and state.column > state.scalar:
        return state._replace(where=GAP)
    return state._replace(where=NODE, block=None, scalar=None)


def _new_line(state: YamlState, *, block: int | None = None, scalar: int | None = None) -> YamlState:
    if state.flow:
        return state._replace(where=NODE)
    if state.where in (LINE, TEXT):
        return state._replace(where=LINE, column=0)
    return state._replace(where=LINE, column=0, block=block, scalar=scalar)


def _in_quotes(state: YamlState, text: str, at: int) -> tuple[int, YamlState]:
    character = text[at]
    if state.where == DOUBLE:
        if state.escaped or character == "\\":
            return at + 1, state._replace(escaped=not state.escaped)
        return at + 1, state._replace(where=CLOSED) if character == '"' else state
    if character != "'":
        return at + 1, state
    return (at + 2, state) if text[at + 1 : at + 2] == "'" else (at + 1, state._replace(where=CLOSED))


def _in_nodes(state: YamlState, text: str, at: int) -> tuple[int, YamlState]:
    character, following = text[at], text[at + 1 : at + 2]
    where = state.where
    if where == COLON and (character in _BLANK + "\n" or (state.flow and character in _FLOW)):
        return at, _after_key(state)
    if character == "\n":
        if state.flow:
            return at + 1, state._replace(where=GAP if where in (PLAIN, GAP) else where if where == CLOSED else NODE)
        return at + 1, _new_line(state, scalar=state.parent if where in (PLAIN, GAP) else None)
    if character in _BLANK:
        return at + 1, state._replace(where={PLAIN: GAP, PROPERTY: NODE}.get(where, where))
    if state.flow and character in _FLOW:
        return at + 1, _in_flow(state, character)
    if character == ":" and where == CLOSED:
        return at + 1, _after_key(state)
    if character == ":" and where in (PLAIN, GAP, COLON):
        return at + 1, state._replace(where=COLON)
    if character == "#" and where in (NODE, GAP, CLOSED):
        return at + 1, state._replace(where=COMMENT)
    if where != NODE:
        return at + 1, state._replace(where=PROPERTY if where == PROPERTY else PLAIN)
    match character:
        case '"':
            return at + 1, state._replace(where=DOUBLE)
        case "'":
            return at + 1, state._replace(where=SINGLE)
        case "[" | "{":
            return at + 1, _in_flow(state, character)
        case "|" | ">" if not state.flow:
            return at + 1, state._replace(where=HEADER)
        case "&" | "!":
            return at + 1, state._replace(where=PROPERTY)
        case ":" if following.isspace():
            return at + 1, _after_key(state)
    return at + 1, state._replace(where=PLAIN)


def _after_key(state: YamlState) -> YamlState:
    return state._replace(where=NODE, parent=state.parent if state.flow else state.column)


def _in_flow(state: YamlState, character: str) -> YamlState:
    if character in "[{":
        return state._replace(where=NODE, flow=state.flow + 1)
    if character == ",":
        return state._replace(where=NODE)
    return state._replace(where=CLOSED, flow=state.flow - 1)


def _written(value: object) -> str:
    """Return a value in flow style, which is JSON but for the escapes of text."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_written(str(key))}: {_written(each)}" for key, each in sorted(value.items())) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_written, value)) + "]"
    return f'"{_double(value)}"' if isinstance(value, str) else json_text(value)


def _double(text: str) -> str:
    return _ESCAPED.sub(lambda match: f"\\u{ord(match[0]):04x}", without_surrogates(text))
