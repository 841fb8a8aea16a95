"""Formats of configuration files that consist of words: nginx, Apache httpd and Caddyfile."""

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, NamedTuple

from discovery_template.printing.marks import MARK, UnprintableError, scalar_text, shown

START = "start"
"""At the beginning of a statement."""
SPACE = "space"
"""Between words."""
WORD = "word"
"""Within a word."""
COMMENT = "comment"
QUOTES = "\"'`"
"""Quotes of the formats. A place within quotes is named by its quote."""

_BARE = re.compile(r"[A-Za-z0-9_.:/@+,=^*?&|\[\]%-]+")
"""Words without a meaning in these formats."""
_LETTERS = re.compile(r"[a-z_]*")


class Place(NamedTuple):
    """A place in a file of words: START, SPACE, WORD, COMMENT or the quote that the place is within.

    `opened` is true directly after an opening quote, and `statement` within quotes that began a statement. `nested` is
    true once text within quotes has other quotes: what stands there is a language of its own. `previous` is a backslash
    or another character with a meaning for what follows directly, or empty.
    """

    where: str = START
    opened: bool = False
    statement: bool = False
    nested: bool = False
    previous: str = ""


@dataclass(frozen=True, eq=False)  # compared by identity: the cache of `advance` asks for each text
class Words:
    """A format of words: quotes at the beginning of a word, comments, and what cannot be written at all."""

    name: str
    refused: re.Pattern[str]
    """What has a meaning also within quotes."""
    quotes: str
    """Quotes that the format knows."""
    ends_statement: str
    """Characters that end a statement, and a word."""
    ends_block: str = ""
    """Character that ends a block between words, and is a part of a word within a word."""
    ends_word: str = " \t\r\n"
    comment_anywhere: bool = True
    """True if `#` begins a comment before any word, and not before a statement alone."""
    reserved: frozenset[str] = frozenset()
    """Words that have a meaning at the beginning of a statement, also within quotes."""
    refused_statement: re.Pattern[str] | None = None
    """What else has a meaning at the beginning of a statement."""
    regex_mark: str = ""
    """Beginning of a word that is a regular expression, also within quotes."""
    begins_statements: bool = True
    """True if a value may begin a statement."""
    continues_lines: bool = False
    """True if a backslash at the end of a line continues the line, also in a comment."""
    begins_variable: str = ""
    """Characters that begin a variable if the right character follows."""
    goes_on_as_variable: str = ""
    """The beginnings of what makes a variable after such a character."""
    start: ClassVar[Place] = Place()

    def advance(self, state: Place, text: str) -> Place:
        """Return the state after `text`."""
        return _advance(self, state, text)

    def quote(self, state: Place, value: object, following: str) -> tuple[str, Place]:
        """Return the written form of a value, and the next state. Raises UnprintableError."""
        text = scalar_text(value)
        if state.where == COMMENT:
            if self.continues_lines and text.endswith("\\"):
                raise UnprintableError(f"{shown(text)} ends with a backslash, and stands in a comment")
            return text, state
        self._check_characters(state, text, following)
        if state.where == START or state.statement:
            self._check_statement(state, text, following)
        begins_word = state.where in (START, SPACE) or state.opened
        if begins_word and self.regex_mark and text.startswith(self.regex_mark):
            raise UnprintableError(f"{shown(text)} would be a regular expression of {self.name}")
        if state.where in QUOTES:
            if state.nested and re.search("[\"'`\\\\]", text):
                raise UnprintableError(f"{shown(text)} has a quote, and stands within two kinds of quotes")
            inside = state._replace(opened=False, statement=False, previous="") if text else state
            return self._escaped(text, state.where), inside
        return self._word(state, text, following)

    def _check_characters(self, state: Place, text: str, following: str) -> None:
        if match := self.refused.search(text):
            raise UnprintableError(f"{shown(text)} has {match[0]!r}, which {self.name} cannot quote")
        if state.previous == "\\":
            raise UnprintableError(f"{shown(text)} stands after a backslash, and would be an escape")
        if self.begins_variable:
            if state.previous and (text or following)[:1].lower() in {*self.goes_on_as_variable, MARK}:
                raise UnprintableError(f"{shown(text)} stands after {state.previous!r}, and would be a variable")
            if text and text[-1] in self.begins_variable and following[:1] in {*self.goes_on_as_variable, MARK}:
                raise UnprintableError(f"{shown(text)} ends with {text[-1]!r}, and would begin a variable")

    def _check_statement(self, state: Place, text: str, following: str) -> None:
        """Raise UnprintableError if a value cannot begin a statement."""
        if not self.begins_statements:
            raise UnprintableError(f"{shown(text)} would be a directive of {self.name}")
        letters = _LETTERS.match(following.lower())
        rest = letters[0] if letters else ""
        word, after = text.lower() + rest, following[len(rest) : len(rest) + 1]
        is_reserved = text and word in self.reserved and not _BARE.match(after)
        may_become = after == MARK and text and any(each.startswith(word) for each in self.reserved)
        if is_reserved or may_become or (self.refused_statement and self.refused_statement.search(text)):
            raise UnprintableError(f"{shown(text)} has a meaning of its own in {self.name}")

    def _word(self, state: Place, text: str, following: str) -> tuple[str, Place]:
        alone = not following or following[0] in self.ends_word or following[0] in self.ends_statement
        if _BARE.fullmatch(text) or (not text and state.where == WORD):
            return text, Place(WORD)
        if not text and state.where != WORD and (following[:1] == MARK or _BARE.match(following)):
            return text, state  # the rest of the word stands as it would without the value
        if state.where == WORD or not (alone or following[0] == ")"):
            raise UnprintableError(f"{shown(text)} is a part of a word, which cannot be quoted")
        quote = "`" if "`" in self.quotes and re.search(r'["\\]', text) and "`" not in text else '"'
        return f"{quote}{self._escaped(text, quote)}{quote}", Place(WORD)

    def _escaped(self, text: str, quote: str) -> str:
        if quote == "`" or (self.quotes == '"`' and "\\" in text):  # a Caddyfile knows no escape of a backslash
            if quote in text or (quote != "`" and "\\" in text):
                raise UnprintableError(f"{shown(text)} cannot be quoted in a {self.name}")
            return text
        if self.quotes == '"`':
            return text.replace(quote, f"\\{quote}")
        return text.replace("\\", "\\\\").replace(quote, f"\\{quote}")


@lru_cache(maxsize=4096)
def _advance(form: Words, state: Place, text: str) -> Place:
    for at, character in enumerate(text):
        state = _next(form, state, character, text[at + 1 : at + 2])
    return state


def _next(form: Words, state: Place, character: str, following: str) -> Place:
    """Return the state after a character."""
    where = state.where
    if where == COMMENT:
        return Place(START) if character == "\n" else state
    if where in QUOTES:
        return _next_in_quotes(form, state, character)
    if state.previous == "\\":
        return Place(SPACE if character == "\n" else WORD)
    previous = character if character == "\\" or character in form.begins_variable else ""
    if previous or (state.previous == "$" and character == "{"):
        return Place(WORD, previous=previous)
    if character in form.ends_statement or (character in form.ends_block and where != WORD):
        return Place(START)
    if character in form.ends_word:
        return Place(SPACE if where != START else START)
    if character == "#" and (where == START or (where == SPACE and form.comment_anywhere)):
        return Place(COMMENT)
    if character in form.quotes and where != WORD:
        return Place(character, opened=True, statement=where == START)
    return Place(WORD)


def _next_in_quotes(form: Words, state: Place, character: str) -> Place:
    if state.previous == "\\":
        return Place(state.where, nested=state.nested)
    if character == state.where:
        return Place(WORD)
    nested = state.nested or character in QUOTES
    previous = character if character in form.begins_variable or (character == "\\" and state.where != "`") else ""
    return Place(state.where, nested=nested, previous=previous)


NGINX = Words(
    "nginx",
    refused=re.compile(r"\$"),
    quotes="\"'",
    ends_statement=";{",
    ends_block="}",
    reserved=frozenset({"include", "default", "hostnames", "volatile", "delete", "proxy", "proxy_recursive", "ranges"}),
    regex_mark="~",
    begins_variable="$",
    goes_on_as_variable="abcdefghijklmnopqrstuvwxyz0123456789_{",
)
"""nginx: `$` begins a variable, also within quotes."""
APACHE = Words(
    "httpd",
    refused=re.compile(r"\$\{|%\{"),
    quotes="\"'",
    ends_statement="\n",
    ends_word=" \t\r>",
    comment_anywhere=False,
    begins_statements=False,
    continues_lines=True,
    begins_variable="$%",
    goes_on_as_variable="{",
)
"""Apache httpd: `${` begins a variable and `%{` an expression, also within quotes. A value begins no line."""
CADDYFILE = Words(
    "Caddyfile",
    refused=re.compile(r"[{}]"),
    quotes='"`',
    ends_statement="\n",
    ends_word=" \t\r",
    reserved=frozenset({"import"}),
    refused_statement=re.compile(r"^[(&@]|,$"),
)
"""Caddyfile: `{` begins a placeholder or a variable, also within quotes.

A snippet, a route and a matcher have a name in parentheses, after `&` or after `@`. A line goes on after a comma.
"""
