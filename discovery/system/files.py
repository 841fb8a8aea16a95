"""Files, written whole or not at all."""

import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

ABSENT = (FileNotFoundError, NotADirectoryError, IsADirectoryError, ProcessLookupError, PermissionError)
"""Exceptions that say that there is no such file, or none that this user may read. Any other OSError, such as EMFILE,
says nothing about the file."""
_MOST_PARTS = os.sysconf("SC_IOV_MAX")
"""Parts that the system takes at once."""


def write_atomically(path: Path, data: bytes | Sequence[bytes], mode: int = 0o644, *, durable: bool = True) -> None:
    """Replace the file `path` by a file that contains `data`, bytes or parts one after the other: whole, and durably.

    A reader finds the old contents or the new contents, never a part. The directory of `path` must exist; `mode` is the
    mode of the new file, whatever the umask. The function writes a temporary file, syncs the file, renames the file and
    syncs the directory, and so blocks until the disk has the data. Without `durable` the function does not wait for the
    disk, and a crash of the machine may lose the data. Raises OSError, which names `path`; the old file then stands,
    except if only the last sync failed. From any thread.
    """
    with _opened(path.parent) as directory:
        try:
            write_within(directory, path.name, data, mode, durable=durable)
        except OSError as error:
            # The temporary file has another name each time, which helps nobody and makes one failure look like many.
            raise OSError(error.errno, error.strerror, str(path)) from error


def sync_directory(path: Path) -> None:
    """Wait until the disk has the names in the directory `path`: files that were created, renamed or removed there.

    Blocks, which may take seconds on a busy disk. Raises OSError. From any thread.
    """
    with _opened(path) as directory:
        os.fsync(directory)


def write_within(
    directory: int, name: str, data: bytes | Sequence[bytes], mode: int = 0o644, *, durable: bool = True
) -> None:
    """Do as `write_atomically` does, for the file `name` in the directory that is open as `directory`."""
    # Not named after the file, whose name may already be as long as names can be; exclusive, so no link is followed.
    temporary = f".{secrets.token_hex(8)}.tmp"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(temporary, flags, 0o600, dir_fd=directory)
    try:
        try:
            os.fchmod(descriptor, mode)
            _write_parts(descriptor, (data,) if isinstance(data, bytes | bytearray | memoryview) else data)
            if durable:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
    except BaseException:  # also a KeyboardInterrupt: no temporary file stays
        with suppress(OSError):
            os.unlink(temporary, dir_fd=directory)
        raise
    if durable:
        os.fsync(directory)


def _write_parts(descriptor: int, parts: Sequence[bytes | memoryview]) -> None:
    """Write parts in turn, without joining the parts, which would cost as much as the write. Raises OSError."""
    rest = [memoryview(part) for part in parts if part]
    at = 0
    while at < len(rest):
        written = os.writev(descriptor, rest[at : at + _MOST_PARTS])
        while at < len(rest) and written >= len(rest[at]):
            written -= len(rest[at])
            at += 1
        if written:
            rest[at] = rest[at][written:]


@contextmanager
def _opened(directory: Path) -> Iterator[int]:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
