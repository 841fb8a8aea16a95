"""The root directory of a file registry: its lock, its clock, and the revision that is stored in it."""

import errno
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

_LOCK_TIMEOUT = 5.0
"""Seconds to wait for the lock of the directory, which other processes keep for the time of a scan or a write."""
_LOCK_RETRY = 0.002
"""Seconds between two attempts to lock the directory: short beside a scan, without keeping a processor busy."""
_SHORTAGE = (errno.EMFILE, errno.ENFILE)
_REVISION = re.compile(rb"([0-9]{20}) ([0-9a-f]{32})\n")


def unavailable(doing: str, error: OSError) -> RegistryError:
    """Return the registry error for the failed operation `doing`, such as "read FILE", with the reason."""
    kind = AccessDeniedError if isinstance(error, PermissionError) else RegistryUnavailableError
    return kind(f"cannot {doing}: {(error.strerror or str(error)).lower()}")


@contextmanager
def held(root: Path) -> Iterator[int]:
    """Lock the directory for this call alone, and yield a descriptor of the directory.

    The lock is `flock` on the directory itself, which needs no file and no permission to write. Raises
    RegistryUnavailableError if the directory is missing or stays locked for 5 seconds, or AccessDeniedError.
    """
    deadline = time.monotonic() + _LOCK_TIMEOUT
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
            if _try_lock(root, descriptor) and _is_current(root, descriptor):
                yield descriptor
                return
        finally:
            os.close(descriptor)
        if time.monotonic() > deadline:
            raise RegistryUnavailableError(
                f"the registry directory {root} stays locked by another process; `lslocks` shows which"
            )
        time.sleep(_LOCK_RETRY)


def _try_lock(root: Path, descriptor: int) -> bool:
    """Lock the open directory, and return True; return False if another process has the lock."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise unavailable(f"lock the registry directory {root}", error) from None
    return True


def _is_current(root: Path, descriptor: int) -> bool:
    """Return True if the path `root` still leads to the open directory `descriptor`."""
    try:
        return os.path.samestat(root.stat(), os.fstat(descriptor))
    except OSError:
        return False


def clock(directory: int) -> float:
    """Return the time of the clock that stamps files in the open `directory`: another machine's on a network share.

    The result is this machine's time if this process cannot write to the directory. Raises RegistryUnavailableError
    without a free descriptor.
    """
    name = f".clock-{secrets.token_hex(8)}"
    try:
        descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=directory)
    except OSError as error:
        if error.errno in _SHORTAGE:
            raise unavailable("read the clock of the registry directory", error) from None
        return time.time()
    try:
        return os.fstat(descriptor).st_mtime
    finally:
        os.close(descriptor)
        with suppress(OSError):
            os.unlink(name, dir_fd=directory)


def has_revision(directory: int) -> bool:
    """Return True if the open `directory` has a revision file, valid or not."""
    try:
        os.stat(REVISION_FILE, dir_fd=directory)
    except OSError:
        return False
    return True


def stored_revision(directory: int) -> int:
    """Return the revision in the revision file, or 0 without a valid file. Call only inside `held`.

    Raises RegistryUnavailableError without a free descriptor.
    """
    return _read_revision(directory)[0]


def settle_revision(directory: int, known: int, digest: str, *, changed: bool, write: bool) -> int:
    """Return the revision of the contents with the digest `digest`. Call only inside `held`.

    The revision file has the revision and a digest of the contents, so that all watching processes give equal contents
    the same revision. The first process that finds other contents (written by an editor, git or a lease) increments the
    revision. A process that may not write the file counts revisions by itself. `known` is the last revision that the
    caller has reported; `changed` is true if the caller reports a change. With `write` False the file stays as it is:
    a process that reads the directory once writes nothing, and a process that reads again writes then.
    """
    stored, stored_digest = _read_revision(directory)
    # A change needs a revision after the last reported revision, which may be a revision of this process alone.
    if stored_digest == digest and stored >= known + changed:
        return stored
    revision = max(stored, known) + 1 if changed else known
    if write and revision > stored:
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
    except OSError as error:
        if error.errno in _SHORTAGE:
            raise unavailable("read the revision of the registry directory", error) from None
        return 0, ""
    return (int(match[1]), match[2].decode()) if match else (0, "")


def _write_revision(directory: int, revision: int, digest: str) -> None:
    # Written in place: the contents always have the same length, and readers have the lock. No fsync: a revision that a
    # crash loses is counted again.
    flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    descriptor = os.open(REVISION_FILE, flags, 0o644, dir_fd=directory)
    try:
        os.pwrite(descriptor, f"{revision:020d} {digest}\n".encode(), 0)
    finally:
        os.close(descriptor)
