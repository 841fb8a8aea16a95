"""Unified differences between files as they are and as they would be."""

from collections.abc import Mapping
from difflib import unified_diff
from pathlib import Path

from discovery.toolkit import FileContents


def difference(wanted: Mapping[Path, FileContents]) -> str:
    """Return the changes of the files as a unified diff; empty if there are none. Writes nothing."""
    return "".join(_difference(path, contents) for path, contents in wanted.items())


def _difference(path: Path, contents: FileContents) -> str:
    before = read(path)
    if before == contents.data:
        return ""
    old = (before or b"").decode(errors="replace").splitlines()
    new = contents.data.decode(errors="replace").splitlines()
    lines = unified_diff(old, new, str(path) if before is not None else "/dev/null", str(path), lineterm="")
    return "".join(f"{line}\n" for line in lines)


def read(path: Path) -> bytes | None:
    """Return the contents of a file; None if the file cannot be read."""
    try:
        return path.read_bytes()
    except OSError:
        return None
