"""The lock of a configuration file: of several daemons with one file, on one machine, one writes the file."""

import asyncio
import fcntl
import os
import time
from contextlib import suppress
from pathlib import Path

from discovery import ApplyError
from discovery.toolkit import format_holders

_SUFFIX = ".lock"
_WAIT_SECONDS = 0.5
"""Time in seconds for a daemon that hands over to let go of its file."""
_AGAIN_SECONDS = 0.02
"""Time in seconds between two attempts."""


class FileLock:
    """A lock beside a configuration file, held until `release`, or until the process ends in any way."""

    def __init__(self, path: Path, option: str) -> None:
        """Store the path of the configuration file, and the option that names it. Nothing is locked yet."""
        self._path = path
        self._option = option
        self._lock = path.with_name(path.name + _SUFFIX)
        self._descriptor: int | None = None

    async def take(self) -> None:
        """Lock the file, unless it is locked by this object. Raises ApplyError if another has locked the file."""
        deadline = time.monotonic() + _WAIT_SECONDS
        while not self._take():
            if time.monotonic() > deadline:
                raise ApplyError(
                    f"{self._path} is in use{self._holder() or ' by another daemon'}:"
                    f" stop one of the two daemons, or set external.{self._option} to another file"
                )
            await asyncio.sleep(_AGAIN_SECONDS)

    def release(self) -> None:
        """Remove the lock, if this object holds the lock."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            with suppress(OSError):
                if self._is_open(descriptor):  # not that of another
                    self._lock.unlink()
            os.close(descriptor)

    def _take(self) -> bool:
        if self._descriptor is not None:
            if self._is_open(self._descriptor):
                return True
            self.release()  # the file was removed
        try:
            descriptor = self._open()
        except FileNotFoundError:
            raise ApplyError(f"{self._path} cannot be written: there is no directory {self._path.parent}") from None
        except OSError as error:
            raise ApplyError(f"{self._lock} cannot be made: {error.strerror}") from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The holder before may have removed the file after it was opened here.
            if not self._is_open(descriptor):
                raise BlockingIOError
        except OSError as error:
            os.close(descriptor)
            if isinstance(error, BlockingIOError):
                return False
            raise ApplyError(f"{self._lock} cannot be locked: {error.strerror}") from None
        with suppress(OSError):  # of another user's file, whose holder is not named then
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        self._descriptor = descriptor
        return True

    def _open(self) -> int:
        try:
            return os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        except PermissionError as error:
            try:
                return os.open(self._lock, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            except FileNotFoundError:
                raise error from None  # the directory is there, and may not be written to

    def _is_open(self, descriptor: int) -> bool:
        try:
            return os.path.samestat(self._lock.lstat(), os.fstat(descriptor))
        except OSError:
            return False

    def _holder(self) -> str:
        try:
            return format_holders([int(self._lock.read_bytes()[:20])])
        except (OSError, ValueError):
            return ""
