"""Files, written whole or not at all."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

ABSENT = (FileNotFoundError, NotADirectoryError, IsADirectoryError, ProcessLookupError, PermissionError)
"""Exceptions that say that there is no such file, or none that this user may read. Any other OSError, such as EMFILE,
says nothing about the file."""


def write_atomically(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Replace the file `path` by a file that contains `data`: whole, and durably.

    A reader finds the old contents or the new contents, never a part. The directory of `path` must exist; `mode` is the
    mode of the new file, whatever the umask. The function writes a temporary file, syncs the file, renames the file and
    syncs the directory, and so blocks until the disk has the data. Raises OSError; the old file then stands, except if
    only the last sync failed. From any thread.
    """
    with _opened(path.parent) as directory:
        write_within(directory, path.name, data, mode)


def sync_directory(path: Path) -> None:
    """Wait until the disk has the names in the directory `path`: files that were created, renamed or removed there.

    Blocks, which may take seconds on a busy disk. Raises OSError. From any thread.
    """
    with _opened(path) as directory:
        os.fsync(directory)


def write_within(directory: int, name: str, data: bytes, mode: int = 0o644) -> None:
    """Do as `write_atomically` does, for the file `name` in the directory that is open as `directory`."""
    # Not named after the file, whose name may already be as long as names can be; exclusive, so no link is followed.
    temporary = f".{secrets.token_hex(8)}.tmp"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(temporary, flags, 0o600, dir_fd=directory)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, mode)
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        os.replace(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary, dir_fd=directory)
        raise
    os.fsync(directory)


@contextmanager
def _opened(directory: Path) -> Iterator[int]:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
