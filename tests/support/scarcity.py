"""A shortage of descriptors, in a program of its own: its limit is that of a whole process."""

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_DESCRIPTORS = 64
"""Limit of open files, of which the programs here have fewer open before."""


@contextmanager
def descriptors_left(left: int) -> Iterator[None]:
    """Leave this process `left` free descriptors until the block ends."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (_DESCRIPTORS, _DESCRIPTORS))
    held = []
    try:
        while True:
            held.append(os.dup(0))
    except OSError:
        pass
    for _ in range(left):
        os.close(held.pop())
    try:
        yield
    finally:
        for each in held:
            os.close(each)


def run_scarce(program: str, *arguments: str | Path) -> str:
    """Run a Python program that can import this module, and return what the program prints."""
    command: list[str | Path] = [sys.executable, "-c", program, *arguments]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    return subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
