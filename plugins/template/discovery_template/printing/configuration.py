"""Formats of configuration files that consist of words: nginx, Apache httpd and Caddyfile."""

import re
from dataclasses import dataclass
from functools import lru_cache

from discovery_template.printing.marks import MARK, UnprintableError, scalar_text, shown

START = "start"
"""At the beginning of a statement."""
SPACE = "space"
"""Between words."""
WORD = "word"
"""Within a word."""
COMMENT = "comment"
QUOTES = {"double": '"', "single": "'", "back": "`"}
"""States within quotes, and the quote that ends each."""
_NESTED = "-nested"
"""Added to the state within quotes once the text has other quotes: what stands there is a language of its own."""

_BARE = re.compile(r"[A-Za-z0-9_.:/@+,=^*?&|\[\]%-]+")
"""Words without a meaning in these formats."""


@dataclass(frozen=True)
class Words:
    """A format of words: quotes at the beginning of a word, comments, and what cannot be written at all."""

    name: str
    refused: re.Pattern[str]
    """What has a meaning also within quotes."""
    quotes: str
    """Quotes that the format knows."""
    ends_statement: str
    """Characters that end a statement, and a word."""
    ends_word: str = " \t\r\n"
    comment_anywhere: bool = True
    """True if `#` begins a comment before any word, and not before a statement alone."""
    reserved: frozenset[str] = frozenset()
    """Words that have a meaning at the beginning of a statement."""
    regex_mark: str = ""
    """Beginning of a word that is a regular expression."""
    begins_statements: bool = True
    """True if a value may begin a statement."""
    continues_lines: bool = False
    """True if a backslash at the end of a line continues the line, also in a comment."""
    start: str = START

    def advance(self, state: str, text: str) -> str:
        """Return the state after `text`."""
        return _advance(self, state, text)

    def quote(self, state: str, value: object, following: str) -> tuple[str, str]:
        """Return the written form of a value, and the next state. Raises UnprintableError."""
        text = scalar_text(value)
        if state == COMMENT:
            if self.continues_lines and text.endswith("\\"):
                raise UnprintableError(f"{shown(text)} ends with a backslash, and stands in a comment")
            return text, state
        if match := self.refused.search(text):
            raise UnprintableError(f"{shown(text)} has {match[0]!r}, which {self.name} cannot quote")
        within = state.removesuffix(_NESTED)
        if within in QUOTES:
            if state != within and re.search("[\"'`\\\\]", text):
                raise UnprintableError(f"{shown(text)} has a quote, and stands within two kinds of quotes")
            return self._escaped(text, QUOTES[within]), state
        return self._word(state, text, following)

    def _word(self, state: str, text: str, following: str) -> tuple[str, str]:
        if state == START and not self.begins_statements:
            raise UnprintableError(f"{shown(text)} would be a directive of {self.name}")
        alone = not following or following[0] in self.ends_word or following[0] in self.ends_statement
        if state == START and (alone or following == MARK) and text.lower() in self.reserved:
            raise UnprintableError(f"{shown(text)} has a meaning of its own in {self.name}")
        if self.regex_mark and state != WORD and text.startswith(self.regex_mark):
            raise UnprintableError(f"{shown(text)} would be a regular expression of {self.name}")
        if _BARE.fullmatch(text) or (not text and state == WORD):
            return text, WORD
        if not text and state == SPACE and (following == MARK or _BARE.match(following)):
            return text, state  # the rest of the word stands as it would without the value
        if state == WORD or not (alone or following[0] == ")"):
            raise UnprintableError(f"{shown(text)} is a part of a word, which cannot be quoted")
        quote = "`" if "`" in self.quotes and re.search(r'["\\]', text) and "`" not in text else '"'
        return f"{quote}{self._escaped(text, quote)}{quote}", WORD

    def _escaped(self, text: str, quote: str) -> str:
        if quote == "`" or (self.quotes == '"`' and "\\" in text):  # a Caddyfile knows no escape of a backslash
            if quote in text or (quote != "`" and "\\" in text):
                raise UnprintableError(f"{shown(text)} cannot be quoted in a {self.name}")
            return text
        if self.quotes == '"`':
            return text.replace(quote, f"\\{quote}")
        return text.replace("\\", "\\\\").replace(quote, f"\\{quote}")


@lru_cache(maxsize=4096)
def _advance(form: Words, state: str, text: str) -> str:
    at = 0
    while at < len(text):
        character = text[at]
        at += 1
        within = state.removesuffix(_NESTED)
        if state == COMMENT:
            state = START if character == "\n" else state
        elif within in QUOTES:
            if character == "\\" and within != "back":
                at += 1
            elif character == QUOTES[within]:
                state = WORD
            elif character in "\"'`":
                state = within + _NESTED
        elif character == "\\":
            state = WORD if text[at : at + 1] != "\n" else SPACE
            at += 1
        elif character in form.ends_statement:
            state = START
        elif character in form.ends_word:
            state = SPACE if state != START else state
        elif character == "#" and (state == START or (state == SPACE and form.comment_anywhere)):
            state = COMMENT
        elif character in form.quotes and state != WORD:
            state = next(name for name, quote in QUOTES.items() if quote == character)
        else:
            state = WORD
    return state


NGINX = Words(
    "nginx",
    refused=re.compile(r"\$"),
    quotes="\"'",
    ends_statement=";{}",
    reserved=frozenset({"include", "default", "hostnames", "volatile", "delete", "proxy", "proxy_recursive", "ranges"}),
    regex_mark="~",
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
)
"""Apache httpd: `${` begins a variable and `%{` an expression, also within quotes. A value begins no line."""
CADDYFILE = Words(
    "Caddyfile",
    refused=re.compile(r"[{}]"),
    quotes='"`',
    ends_statement="\n",
    ends_word=" \t\r",
    reserved=frozenset({"import"}),
)
"""Caddyfile: `{` begins a placeholder or a variable, also within quotes."""
