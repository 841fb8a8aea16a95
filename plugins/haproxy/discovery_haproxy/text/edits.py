"""The difference that a person's edit of a configuration file makes, in few lines and without passwords. Pure."""

import difflib
import re

from discovery_haproxy.text.passwords import without_passwords

_CONTEXT_LINES = 3
"""Unchanged lines around a change, as `diff -u` prints."""
_SHOWN_LINES = 40
"""Lines of a difference that are shown, so that an edit does not flood the log."""
_COMPARED_LINES = 2000
"""Lines of each text between the first and the last change that are compared: difflib takes quadratic time."""
_LINE_CHARACTERS = 160
"""Characters of a line that are shown."""
_HUNK = re.compile(r"@@ -(\d+)(,\d+)? \+(\d+)(,\d+)? @@")


def edit_lines(before: str, after: str) -> list[str]:
    """Return the lines of a unified diff from `before` to `after`, without the file names, and cut where it is long."""
    old, new = before.splitlines(), after.splitlines()
    start = max(_common(old, new) - _CONTEXT_LINES, 0)
    rest = min(len(old), len(new)) - start
    tail = max(_common(old[::-1], new[::-1], rest) - _CONTEXT_LINES, 0)
    old, new = old[start : len(old) - tail], new[start : len(new) - tail]
    if max(len(old), len(new)) > _COMPARED_LINES:
        return [f"lines {start + 1} to {start + len(old)} were replaced by {len(new)} lines: too many to show"]
    lines = list(difflib.unified_diff(old, new, lineterm="", n=_CONTEXT_LINES))[2:]
    shown = [without_passwords(_moved(line, start))[:_LINE_CHARACTERS] for line in lines[:_SHOWN_LINES]]
    return [*shown, f"and {len(lines) - len(shown)} lines more"] if len(lines) > len(shown) else shown


def _common(one: list[str], other: list[str], most: int | None = None) -> int:
    """Return the number of lines at the start, at most `most`, that both texts have in common."""
    pairs = list(zip(one, other, strict=False))[:most]
    return next((number for number, (line, another) in enumerate(pairs) if line != another), len(pairs))


def _moved(line: str, by: int) -> str:
    """Return a line of a diff of parts of texts as a line of the diff of the whole texts."""
    if not (hunk := _HUNK.match(line)):
        return line
    return f"@@ -{int(hunk[1]) + by}{hunk[2] or ''} +{int(hunk[3]) + by}{hunk[4] or ''} @@"
