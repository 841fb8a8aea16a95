"""Output of commands: results to stdout, notes to stderr."""

import io
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from discovery.system.terminal import printable


def prepare_streams() -> None:
    """Make stdin, stdout and stderr usable, however we were started.

    One that is closed becomes /dev/null, so that no file or socket gets its number and our words, and our children's,
    with it. What its encoding cannot express is escaped.
    """
    for descriptor, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, this one
            setattr(sys, name, open(descriptor, mode, encoding="utf-8", closefd=False))  # noqa: SIM115 - it stays open
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def note(text: str) -> None:
    """Write `text`, a line for a person, to stderr. Control characters are escaped. Raises nothing."""
    with suppress(OSError, ValueError):
        print(f"discovery: {printable(text)}", file=sys.stderr, flush=True)


PATIENCE = 2.0
"""Seconds after which a person is told what is waited for."""


@contextmanager
def progress(what: str) -> Iterator[Callable[[], None]]:
    """Write to stderr what the command waits for, once, if the block lasts longer than PATIENCE.

    The block may call what it is given as soon as there is no more waiting.
    """
    timer = threading.Timer(PATIENCE, note, (f"waiting for {what}",))
    timer.daemon = True
    timer.start()
    try:
        yield timer.cancel
    finally:
        timer.cancel()


def result(text: str) -> None:
    """Write `text`, a line of the result, to stdout at once. Raises BrokenPipeError if the reader has gone."""
    print(text, flush=True)


def abandon_stdout() -> None:
    """Replace a stdout whose reader has gone, so that the interpreter does not complain at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
