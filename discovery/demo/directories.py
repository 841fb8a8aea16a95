"""Temporary directories that are locked while in use, so that the next run removes those of a run that was killed."""

import fcntl
import os
import shutil
import stat
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import IO


def new_directory(prefix: str, parent: Path | None = None) -> tuple[Path, IO[str]]:
    """Create a directory, in `parent` or among the temporary files, and return its path and lock.

    Only this user has rights to the directory, which is in use until the lock is closed.
    """
    while True:
        directory = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        with suppress(OSError):  # one that another's sweep took before it was locked
            return directory, locked(directory)


def locked(directory: Path) -> IO[str]:
    """Return the lock of a directory, which holds until closed.

    Raises BlockingIOError if a process has the lock, other OSErrors for a directory that cannot be locked.
    """
    lock = os.fdopen(os.open(directory / "lock", os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o600), "w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        raise
    return lock


def is_private(directory: Path) -> bool:
    """Return True if this is a directory, no link to one, of this user, to which nobody else has rights."""
    status = os.lstat(directory)
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & 0o077


def sweep(prefix: str, parent: Path) -> None:
    """Remove the directories in `parent` that no process uses. What cannot be removed stays.

    Everyone may create files among the temporary files. So only a directory counts that is this user's alone.
    """
    for directory in parent.glob(f"{prefix}*"):
        with suppress(OSError):  # in use, or removed by another sweep
            if is_private(directory):
                with locked(directory):
                    shutil.rmtree(directory, ignore_errors=True)
