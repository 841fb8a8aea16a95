"""The records of the directory: read again only where it changed, without expired ones."""

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
_OF_THE_MACHINE = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO, errno.ESTALE})
"""Errors that say nothing about the entry that was to be read."""


@dataclass(frozen=True, slots=True)
class DirectoryListing:
    """The records now. `digest` stands for all of them.

    `problem` says why the directory as a whole could not be read; what was known stands. `kept` names the files and
    directories that this process may no longer read, whose last known contents stand, each with the reason. Look again
    after `again` seconds at the latest (None: no need), since something expires or settles then.
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
    signature: tuple[int, ...] | None = None  # None: read it again whatever it looks like
    expires: float | None = None  # on the monotonic clock, as is `removable`
    removable: float = 0.0
    modified: int = 0


class Tree:
    """The files of a directory as last read. Not thread-safe."""

    def __init__(self) -> None:
        """Begin without having seen anything."""
        self._files: dict[str, _File] = {}
        self._services: set[str] = set()
        self._problem: str | None = None
        self._kept: dict[str, str] = {}
        self._unsettled = False
        self._offset: float | None = None

    def scan(self, root: int) -> DirectoryListing:
        """Read what changed in the directory open as `root`, and remove from it what expired. Raises OSError."""
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
                    if self._stands(f"{entry.name}/", error, entry, known=bool(known)):
                        files.update(known)
                    else:
                        files[entry.name] = _stray(entry.name, _reason(error))
        # Of what happens in a new directory the kernel tells only from a moment later on.
        self._unsettled |= not services <= self._services
        self._files, self._services = files, services
        now = time.monotonic()
        records: dict[str, bytes] = {}
        digest, again = 0, _YOUNG if self._unsettled else None
        for name, file in files.items():
            if file.expires is not None:
                if file.removable <= now:
                    # Where this is not allowed it stays, and stays expired.
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
            if self._stands(name, error, entry, known=before is not None):
                return None if before is None else _as_known(before)
            return _stray(name, _reason(error))

    def _read_file(self, root: int, descriptor: int, name: str, before: _File | None) -> _File | None:
        """Read and close the open file."""
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
        # Changed within the clock's granularity, it may change again and look the same: look again. Counted from before
        # it was read, since that may have taken long; a time in the future is no reason.
        young = began - _YOUNG < status.st_ctime <= now
        key = _text(name)
        record = decode(key, value)
        if young and not isinstance(record, Record):
            # Most likely an editor that has not finished: believe it once it has lasted.
            self._unsettled = True
            return before
        read = _File(key, value, _digest(key, value), None if young else _signature(status))
        if not isinstance(record, Record) or record.ttl is None:
            return read
        seen, age = time.monotonic(), 0.0
        if before is not None and before.expires is not None and before.modified == status.st_mtime_ns:
            return replace(read, expires=before.expires, removable=before.removable, modified=before.modified)
        if before is None:
            # Nothing is known of its owner yet, so the time of the last sign of life counts, by the clock that wrote
            # it. From here on a sign of life is one that is seen here, and no clock but the monotonic one counts.
            age = max(0.0, self._file_time(root) - status.st_mtime)
        # The file is removed only if no sign of life was seen for a whole TTL: whatever the clocks say, its owner is
        # then dead.
        expires, removable = seen + record.ttl - age, seen + record.ttl
        return replace(read, expires=expires, removable=removable, modified=status.st_mtime_ns)

    def _file_time(self, root: int) -> float:
        """The time by the clock that stamps the files; it is asked once in a scan."""
        if self._offset is None:
            self._offset = clock(root) - time.monotonic()
        return self._offset + time.monotonic()

    def _below(self, service: str) -> dict[str, _File]:
        return {name: _as_known(file) for name, file in self._files.items() if name.startswith(f"{service}/")}

    def _stands(self, name: str, error: OSError, entry: os.DirEntry[str], *, known: bool) -> bool:
        """Return True if what was known of the entry stands although the entry cannot be read, which is then noted."""
        reason = _reason(error)
        if error.errno in _OF_THE_MACHINE:
            self._problem = self._problem or f"cannot read {_text(name)}, so what was known of it stands: {reason}"
            return True
        # A missing permission of the entry itself may be a mistake, so the record is kept. A link is rejected: its
        # target was chosen when the link was made.
        if known and not entry.is_symlink() and isinstance(error, PermissionError):
            self._kept[_text(name)] = reason
            return True
        return False


def _as_known(file: _File) -> _File:
    """The last contents of a file that cannot be read now. They do not expire: the owner may be alive."""
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
    """A file that is no record. It is listed so that it appears among the rejected records, with the reason."""
    key = _text(name)
    return _File(key, Unreadable(reason) if reason else b"", _digest(key, reason.encode()))


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()


def _signature(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _digest(key: str, value: bytes) -> int:
    return int.from_bytes(blake2b(key.encode() + b"\0" + value, digest_size=16).digest())


def _text(name: str) -> str:
    """The name as text, bytes that are not UTF-8 escaped by a backslash, which no valid key has."""
    return name if name.isascii() else os.fsencode(name).decode(errors="backslashreplace")
