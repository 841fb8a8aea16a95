"""The records in the directory that have not expired. A scan reads only the files that have changed."""

import errno
import os
import stat
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from hashlib import blake2b

from discovery.codec import MAX_VALUE, Record, Unreadable, decode
from discovery.registry.file.beneath import open_beneath, open_regular
from discovery.registry.file.directory import clock

_YOUNG = 0.1
"""Seconds after a change in which the same file may change again without another time stamp.

Longer than the granularity of the time stamps of common file systems, a tick of the kernel's clock (10 ms at most).
"""
_MACHINE_ERRORS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO, errno.ESTALE})
"""Errors of the machine or the file system, not of the file or directory that was to be read."""


@dataclass(frozen=True, slots=True)
class DirectoryListing:
    """The records of the directory after a scan, and a `digest` of all records.

    `problem`, if not None, is the reason why parts of the directory could not be read; their last known records are
    kept. `kept` has the reason for each file and directory that this process may no longer read; their last known
    records are kept, too. The next scan is due after `again` seconds at the latest, when a record expires or a recent
    change is certain to be complete; None if no scan is due.
    """

    records: Mapping[str, bytes]
    digest: str
    problem: str | None
    again: float | None
    kept: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class _File:
    key: str
    value: bytes
    digest: int
    signature: tuple[int, ...] | None = None  # None: the next scan reads the file in any case
    expires: float | None = None  # seconds on the monotonic clock; None: never
    removable: float = 0.0  # seconds on the monotonic clock
    modified: int = 0  # nanoseconds, st_mtime_ns


class Tree:
    """The files of a registry directory at the last scan. Not thread-safe."""

    def __init__(self) -> None:
        """Create an empty tree."""
        self._files: dict[str, _File] = {}
        self._services: set[str] = set()
        self._problem: str | None = None
        self._kept: dict[str, str] = {}
        self._unsettled = False
        self._offset: float | None = None

    def scan(self, root: int) -> DirectoryListing:
        """Read the changed files of the directory open as `root`, and remove expired files. Raises OSError."""
        self._problem, self._kept, self._unsettled, self._offset = None, {}, False, None
        files: dict[str, _File] = {}
        services: set[str] = set()
        with os.scandir(root) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if not entry.is_symlink() and not entry.is_dir():
                    files[entry.name] = _stray(entry.name)
                    continue
                try:
                    self._read_service(root, entry.name, files, services)
                except OSError as error:
                    if isinstance(error, FileNotFoundError) and not entry.is_symlink():
                        continue
                    known = self._below(entry.name)
                    if self._keeps_known(f"{entry.name}/", error, entry, known=bool(known)):
                        files.update(known)
                    else:
                        files[entry.name] = _stray(entry.name, _reason(error))
        # The kernel reports changes in a new directory only after the watch of that directory was added.
        self._unsettled |= not services <= self._services
        self._files, self._services = files, services
        now = time.monotonic()
        records: dict[str, bytes] = {}
        digest, again = 0, _YOUNG if self._unsettled else None
        for name, file in files.items():
            if file.expires is not None:
                if file.removable <= now:
                    # Without the permission the file stays, and stays expired.
                    with suppress(OSError):
                        _remove(root, name)
                    continue
                due = (file.expires if now < file.expires else file.removable) - now
                again = due if again is None else min(again, due)
                if file.expires <= now:
                    continue
            records[file.key] = file.value
            digest += file.digest
        return DirectoryListing(records, f"{digest % 2**128:032x}", self._problem, again, self._kept)

    def _read_service(self, root: int, service: str, files: dict[str, _File], services: set[str]) -> None:
        directory = open_beneath(root, service)
        try:
            if not stat.S_ISDIR(os.fstat(directory).st_mode):
                files[service] = _stray(service)
                return
            services.add(service)
            with os.scandir(directory) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    name = f"{service}/{entry.name}"
                    file = self._read_entry(root, directory, entry, name)
                    if file is not None:
                        files[name] = file
        finally:
            os.close(directory)

    def _read_entry(self, root: int, directory: int, entry: os.DirEntry[str], name: str) -> _File | None:
        before = self._files.get(name)
        try:
            if entry.is_symlink():
                descriptor = open_beneath(root, name)
            else:
                status = entry.stat(follow_symlinks=False)
                if before is not None and before.signature == _signature(status):
                    return before
                if stat.S_ISDIR(status.st_mode):
                    return _stray(f"{name}/")
                descriptor = open_regular(directory, entry.name, status.st_mode)
            return self._read_file(root, descriptor, name, before)
        except OSError as error:
            if isinstance(error, FileNotFoundError) and not entry.is_symlink():
                return None
            if self._keeps_known(name, error, entry, known=before is not None):
                return None if before is None else _as_known(before)
            return _stray(name, _reason(error))

    def _read_file(self, root: int, descriptor: int, name: str, before: _File | None) -> _File | None:
        """Read and close the file `name`, open as `descriptor`. `before` is the file at the last scan."""
        began = time.time()
        status = os.fstat(descriptor)
        if stat.S_ISDIR(status.st_mode):
            os.close(descriptor)
            return _stray(name, "the symbolic link ends at a directory and not at a regular file")
        with os.fdopen(descriptor, "rb") as file:
            if before is not None and before.signature == _signature(status):
                return before
            value = file.read(MAX_VALUE + 1)
        now = time.time()
        # A file that changed within the granularity of time stamps may change again with an equal signature, so the
        # next scan reads it again. The age counts from before the read, which may take long. A time stamp in the future
        # does not make a file young.
        young = began - _YOUNG < status.st_ctime <= now
        key = _text(name)
        record = decode(key, value)
        if young and not isinstance(record, Record):
            # Most likely an editor has not finished writing. The contents count once the file is no longer young.
            self._unsettled = True
            return before
        read = _File(key, value, _digest(key, value), None if young else _signature(status))
        if not isinstance(record, Record) or record.ttl is None:
            return read
        seen, age = time.monotonic(), 0.0
        if before is not None and before.expires is not None and before.modified == status.st_mtime_ns:
            return replace(read, expires=before.expires, removable=before.removable, modified=before.modified)
        if before is None:
            # No renewal was seen yet, so the record's age is that of its time stamp, by the clock that stamps files.
            # From now on only renewals that a scan finds count, at the time of the monotonic clock.
            age = max(0.0, self._file_time(root) - status.st_mtime)
        # The file is removed only if scans found no renewal for a whole TTL. Then the owner is dead, even if the clocks
        # of both machines differ.
        expires, removable = seen + record.ttl - age, seen + record.ttl
        return replace(read, expires=expires, removable=removable, modified=status.st_mtime_ns)

    def _file_time(self, root: int) -> float:
        """Return the time in seconds of the clock that stamps files. A scan reads that clock once."""
        if self._offset is None:
            self._offset = clock(root) - time.monotonic()
        return self._offset + time.monotonic()

    def _below(self, service: str) -> dict[str, _File]:
        """Return the last known files of the directory `service`."""
        return {name: _as_known(file) for name, file in self._files.items() if name.startswith(f"{service}/")}

    def _keeps_known(self, name: str, error: OSError, entry: os.DirEntry[str], *, known: bool) -> bool:
        """Return True if the last known records of an unreadable entry are kept, and note the reason for the listing.

        `known` is true if the entry had records at the last scan.
        """
        reason = _reason(error)
        if error.errno in _MACHINE_ERRORS:
            self._problem = self._problem or f"cannot read {_text(name)}, so its last known record is kept: {reason}"
            return True
        # A missing permission of the entry itself may be a mistake, so the record is kept. An unreadable target of a
        # symbolic link is rejected: the author of the link chose the target.
        if known and not entry.is_symlink() and isinstance(error, PermissionError):
            self._kept[_text(name)] = reason
            return True
        return False


def _as_known(file: _File) -> _File:
    """Return the last known state of a file that cannot be read now. A record that is valid now does not expire.

    Renewals cannot be seen, so the owner may be alive.
    """
    expired = file.expires is not None and file.expires <= time.monotonic()
    return file if expired else replace(file, signature=None, expires=None)


def _remove(root: int, name: str) -> None:
    service, _, id_ = name.partition("/")
    directory = open_beneath(root, service)
    try:
        os.unlink(id_, dir_fd=directory)
    finally:
        os.close(directory)


def _stray(name: str, reason: str = "") -> _File:
    """Return an entry for a file that is no record, so that the file is among the rejected records with the reason."""
    key = _text(name)
    return _File(key, Unreadable(reason) if reason else b"", _digest(key, reason.encode()))


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()


def _signature(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _digest(key: str, value: bytes) -> int:
    return int.from_bytes(blake2b(key.encode() + b"\0" + value, digest_size=16).digest())


def _text(name: str) -> str:
    """Return the file name as text. Bytes that are not UTF-8 are escaped with a backslash, which no valid key has."""
    return name if name.isascii() else os.fsencode(name).decode(errors="backslashreplace")
