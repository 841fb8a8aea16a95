"""Ownership of a configuration file that a person may have written: which files may be replaced, and the kept original.

A file is discovery's if a line that begins with `MARK` stands above every line that is not a comment.
"""

import os
import shutil
from contextlib import suppress
from pathlib import Path

from discovery import ApplyError
from discovery.toolkit import sync_directory, write_atomically
from discovery_haproxy.text.seal import MARK

_BEFORE = ".before-discovery"
_COMMENT = b"#"


def is_foreign(content: bytes) -> bool:
    """Return True if a file with this content is not discovery's. A file without any text is free to take."""
    for line in content.splitlines():
        stripped = line.strip()
        if stripped.startswith(MARK.encode()):
            return False
        if stripped and not stripped.startswith(_COMMENT):
            return True
    return bool(content.strip())


def read(path: Path) -> bytes:
    """Return the content of the file `path`; empty if there is no file. Raises ApplyError."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise ApplyError(f"{path} cannot be read: {error.strerror}") from None


def refusal(path: Path, option: str) -> str:
    """Return the error message for a foreign file, which the option `external.OPTION` names or implies."""
    return (
        f"{path} was not written by discovery, and is not overwritten: set external.adopt = true to replace the file"
        f" (the original is kept as {original(path)}), or set external.{option} to another file"
    )


def original(path: Path) -> Path:
    """Return the path at which the original of an adopted file is kept."""
    return path.with_name(path.name + _BEFORE)


def keep(path: Path, content: bytes, copy: Path) -> None:
    """Write `content`, read from `path`, to the new file `copy`, with the mode, owner and times of `path`, durably.

    Leave a `copy` that exists as it is. `copy` is no link: a program may edit `path` in place. Raises ApplyError.
    """
    if os.path.lexists(copy):
        return
    temporary = copy.with_name(f".{copy.name}.tmp")
    try:
        state = path.stat()
        write_atomically(temporary, content, 0o600)
        with suppress(PermissionError):
            os.chown(temporary, state.st_uid, state.st_gid)
        shutil.copystat(path, temporary)
        with suppress(FileExistsError):
            try:
                os.link(temporary, copy)
            except FileExistsError:
                raise
            except OSError:  # a file system without links
                temporary.replace(copy)
        sync_directory(copy.parent)
    except OSError as error:
        raise ApplyError(f"{path} cannot be kept as {copy}: {error.strerror}") from None
    finally:
        with suppress(OSError):
            temporary.unlink()
