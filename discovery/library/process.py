"""The start of a helper process: the same Python, with the same modules, in a session of its own."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from discovery import errors
from discovery.errors import DiscoveryError, RegistryError, describe

_PROGRAM = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]);"
    "from discovery.library.helper import main; main(sys.argv[2])"
)


def start_helper(task: str, *, stdin: int, stdout: int | IO[bytes] = subprocess.DEVNULL) -> "subprocess.Popen[bytes]":
    """Start a helper that does `task`. Its stderr is that of this process, for what Python itself reports.

    Raises OSError if no process can be started.
    """
    path = json.dumps([each or str(Path.cwd()) for each in sys.path])
    return subprocess.Popen([_python(), "-c", _PROGRAM, path, task], stdin=stdin, stdout=stdout, start_new_session=True)


def _python() -> str:
    """Return the path of the interpreter. In a server that embeds Python `sys.executable` is the server."""
    if "python" in Path(sys.executable or "").name or "pypy" in Path(sys.executable or "").name:
        return sys.executable
    return str(Path(sys.prefix, "bin/python3"))


def error_document(error: BaseException) -> list[str]:
    """Return the class of an error, if the application knows the class, and its text."""
    if isinstance(error, DiscoveryError):
        return [type(error).__name__, str(error)]
    return ["RegistryError", describe(error)]


def error_of(document: Sequence[str]) -> DiscoveryError:
    """Return the error that the helper process has reported."""
    kind = getattr(errors, document[0], None)
    known = kind if isinstance(kind, type) and issubclass(kind, DiscoveryError) else RegistryError
    return known(document[1])
