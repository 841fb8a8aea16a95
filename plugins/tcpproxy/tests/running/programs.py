"""Real programs as clients and servers: how tests run them."""

import subprocess
from collections.abc import Callable
from pathlib import Path

from discovery.testing import within

PATIENCE = 60.0
"""Seconds for a client that runs to its end."""
Spawn = Callable[..., subprocess.Popen[bytes]]
"""Starts a program that runs until the test ends."""
Ambassador = Callable[..., int]
"""Starts `discovery ambassador` for the port of a server; returns the port to connect to."""


def run(*command: str | Path, input: bytes = b"") -> bytes:  # noqa: A002 - as subprocess has it
    """What a client says that is to succeed."""
    ran = subprocess.run(command, input=input, capture_output=True, timeout=within(PATIENCE), check=False)
    assert ran.returncode == 0, f"{command}: {ran.returncode}\n{ran.stdout!r}\n{ran.stderr!r}"
    return ran.stdout
