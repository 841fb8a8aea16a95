"""Removes the labs of a process that is killed, as soon as it is."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_ENDED = b"."
"""What the guard reads if the block ends: then there is nothing to remove. A process that is killed writes nothing."""
_PROGRAM = """
import os, sys
if os.fork():
    os._exit(0)
os.setsid()
if not sys.stdin.buffer.read():
    from docker_lab.leftovers import sweep
    sweep()
"""
"""The guard. It has another parent than the guarded process, which may end all its children, and a session of its own:
no Ctrl-C and no signal to the group of the guarded process reaches the guard."""


@contextmanager
def guarded() -> Iterator[None]:
    """Remove the labs of this process, by another process, if this one is killed during the block.

    The labs of other processes that were killed are removed with them.
    """
    reading, writing = os.pipe()
    try:
        try:
            subprocess.run(
                [sys.executable, "-c", _PROGRAM],
                check=True,
                stdin=reading,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
        finally:
            os.close(reading)
        try:
            yield
        finally:
            with suppress(BrokenPipeError):  # the guard has been killed
                os.write(writing, _ENDED)
    finally:
        os.close(writing)
