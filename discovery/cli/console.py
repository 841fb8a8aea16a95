"""Where a command's words go: results to stdout, notes to stderr."""

import os
import sys
from contextlib import suppress

from discovery.documents import printable


def note(text: str) -> None:
    """Tell a person something beside the results: one line on stderr."""
    with suppress(OSError, ValueError):
        print(f"discovery: {printable(text)}", file=sys.stderr, flush=True)


def result(text: str) -> None:
    """Write a line of the result to stdout, at once. Raises BrokenPipeError if nobody reads any more."""
    print(text, flush=True)


def abandon_stdout() -> None:
    """Let go of a stdout that nobody reads, so that the interpreter does not complain of it at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
