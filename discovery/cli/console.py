"""Output of commands: results to stdout, notes to stderr."""

import io
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from discovery.system.terminal import printable


def prepare_streams() -> None:
    """Make stdin, stdout and stderr usable, whichever of the three the parent process left open.

    A closed stream becomes /dev/null. Otherwise a file or socket would get the stream's descriptor number, and receive
    the output of this process and its children. Characters that the encoding cannot express are escaped.
    """
    for descriptor, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number, which is `descriptor`
            setattr(sys, name, open(descriptor, mode, encoding="utf-8", closefd=False))  # noqa: SIM115 - it stays open
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def note(text: str) -> None:
    """Write `text`, a line for a person, to stderr. Control characters are escaped. Raises nothing."""
    with suppress(OSError, ValueError):
        print(f"discovery: {printable(text)}", file=sys.stderr, flush=True)


PROGRESS_SECONDS = 2.0
"""Seconds of waiting before a note: shorter waits need no explanation."""


@contextmanager
def progress(what: str) -> Iterator[Callable[[], None]]:
    """Write "waiting for WHAT" to stderr once, if the block lasts longer than PROGRESS_SECONDS.

    Yields a function that the block may call when the wait is over before the block is.
    """
    timer = threading.Timer(PROGRESS_SECONDS, note, (f"waiting for {what}",))
    timer.daemon = True
    timer.start()
    try:
        yield timer.cancel
    finally:
        timer.cancel()


def result(text: str) -> None:
    """Write `text`, a line of the result, to stdout without delay. Raises BrokenPipeError if the reader has gone."""
    print(text, flush=True)


def abandon_stdout() -> None:
    """Replace stdout by /dev/null after its reader has gone, so that the interpreter reports no error at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
