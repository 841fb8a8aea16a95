"""The directory itself: held by one process at a time, and the revision that is kept in it."""

import fcntl
import os
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from discovery.errors import AccessDeniedError, RegistryError, RegistryUnavailableError

REVISION_FILE = ".revision"

_PATIENCE = 5.0
_REVISION = re.compile(rb"([0-9]{20}) ([0-9a-f]{32})\n")


def unavailable(doing: str, error: OSError) -> RegistryError:
    """The registry error that says what could not be done and why."""
    kind = AccessDeniedError if isinstance(error, PermissionError) else RegistryUnavailableError
    return kind(f"cannot {doing}: {(error.strerror or str(error)).lower()}")


@contextmanager
def held(root: Path) -> Iterator[int]:
    """A descriptor of the directory, exclusively locked against everybody else who uses this module.

    The lock is on the directory, so that it needs no file and no permission to write. Raises
    RegistryUnavailableError if the directory is missing or stays locked for 5 seconds, or AccessDeniedError.
    """
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise RegistryUnavailableError(
                f"the registry directory {root} does not exist; `mkdir -p {root}` makes it"
            ) from None
        except OSError as error:
            raise unavailable(f"open the registry directory {root}", error) from None
        try:
            if _locked(root, descriptor) and _is(root, descriptor):
                yield descriptor
                return
        finally:
            os.close(descriptor)
        if time.monotonic() > deadline:
            raise RegistryUnavailableError(
                f"the registry directory {root} stays locked by another process; `lslocks` shows which"
            )
        time.sleep(0.002)


def _locked(root: Path, descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise unavailable(f"lock the registry directory {root}", error) from None
    return True


def _is(root: Path, descriptor: int) -> bool:
    """Whether the directory that was opened is still the one of this name."""
    try:
        return os.path.samestat(root.stat(), os.fstat(descriptor))
    except OSError:
        return False


def clock(directory: int) -> float:
    """The time by the clock that stamps files in the open `directory`, which may be another machine's.

    Where nothing may be written there it is this machine's time.
    """
    name = f".clock-{secrets.token_hex(8)}"
    try:
        descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=directory)
    except OSError:
        return time.time()
    try:
        return os.fstat(descriptor).st_mtime
    finally:
        os.close(descriptor)
        with suppress(OSError):
            os.unlink(name, dir_fd=directory)


def has_revision(directory: int) -> bool:
    """Whether there is a revision file, whatever is in it."""
    try:
        os.stat(REVISION_FILE, dir_fd=directory)
    except OSError:
        return False
    return True


def counted(directory: int) -> int:
    """The revision of the counter's file; 0 if there is none. Call it while the directory is held."""
    return _read_revision(directory)[0]


def settle_revision(directory: int, known: int, digest: str, *, changed: bool) -> int:
    """The revision at which the contents are what `digest` stands for; call it while the directory is held.

    The counter's file has a digest of the contents, so that all watching processes give equal contents the same
    revision. The first process that sees other contents (written by an editor, git or a lease) increments the counter.
    A process that may not write the file counts by itself. `known` is the last revision that the caller has reported;
    `changed` says whether the caller reports a change.
    """
    counter, counted = _read_revision(directory)
    # A change needs another revision than the one reported last, which may be this process's alone.
    if counted == digest and counter >= known + changed:
        return counter
    if not changed:
        return known
    revision = max(counter, known) + 1
    with suppress(OSError):
        _write_revision(directory, revision, digest)
    return revision


def _read_revision(directory: int) -> tuple[int, str]:
    try:
        descriptor = os.open(
            REVISION_FILE, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW, dir_fd=directory
        )
        try:
            match = _REVISION.fullmatch(os.read(descriptor, 100))
        finally:
            os.close(descriptor)
    except OSError:
        return 0, ""
    return (int(match[1]), match[2].decode()) if match else (0, "")


def _write_revision(directory: int, revision: int, digest: str) -> None:
    # In place: always of one length and in one write, read only under the lock, and not worth an fsync.
    flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    descriptor = os.open(REVISION_FILE, flags, 0o644, dir_fd=directory)
    try:
        os.pwrite(descriptor, f"{revision:020d} {digest}\n".encode(), 0)
    finally:
        os.close(descriptor)
