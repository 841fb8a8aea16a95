"""What is in the directory: read again only where it changed, without what has expired."""

import os
import stat
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from hashlib import blake2b

from discovery.codec import MAX_VALUE, Record, decode

_YOUNG = 0.1


@dataclass(frozen=True, slots=True)
class Listing:
    """The records now. `digest` stands for all of them; `problem` tells what could not be read, and was kept.

    Look again after `again` seconds at the latest (None: no need), since something expires or settles then.
    """

    records: Mapping[str, bytes]
    digest: str
    problem: str | None
    again: float | None


@dataclass(frozen=True, slots=True)
class _File:
    key: str
    value: bytes
    digest: int
    signature: tuple[int, ...] | None = None  # None: read it again whatever it looks like
    expires: float | None = None  # on the monotonic clock


class Tree:
    """The files of one directory as last read. Not thread-safe."""

    def __init__(self) -> None:
        """Begin without having seen anything."""
        self._files: dict[str, _File] = {}
        self._services: set[str] = set()
        self._problem: str | None = None
        self._unsettled = False

    def scan(self, root: int) -> Listing:
        """Read what changed in the directory open as `root`, and remove from it what expired. Raises OSError."""
        self._problem, self._unsettled = None, False
        files: dict[str, _File] = {}
        services: set[str] = set()
        with os.scandir(root) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                try:
                    if not entry.is_dir():
                        files[entry.name] = _stray(entry.name)
                        continue
                    services.add(entry.name)
                    self._read_service(root, entry.name, files)
                except FileNotFoundError:
                    continue
                except OSError as error:
                    self._keep(f"{entry.name}/", error)
                    files.update(self._below(entry.name))
        # Of what happens in a new directory the kernel tells only from a moment later on.
        self._unsettled |= not services <= self._services
        self._files, self._services = files, services
        now = time.monotonic()
        records: dict[str, bytes] = {}
        digest, again = 0, _YOUNG if self._unsettled else None
        for name, file in files.items():
            if file.expires is not None:
                if file.expires <= now:
                    # Where this is not allowed it stays, and stays expired.
                    with suppress(OSError):
                        os.unlink(name, dir_fd=root)
                    continue
                again = file.expires - now if again is None else min(again, file.expires - now)
            records[file.key] = file.value
            digest += file.digest
        return Listing(records, f"{digest % 2**128:032x}", self._problem, again)

    def _read_service(self, root: int, service: str, files: dict[str, _File]) -> None:
        directory = os.open(service, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=root)
        try:
            with os.scandir(directory) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    name = f"{service}/{entry.name}"
                    file = self._read_entry(directory, entry, name)
                    if file is not None:
                        files[name] = file
        finally:
            os.close(directory)

    def _read_entry(self, directory: int, entry: os.DirEntry[str], name: str) -> _File | None:
        before = self._files.get(name)
        try:
            status = entry.stat()
            if before is not None and before.signature == _signature(status):
                return before
            if stat.S_ISDIR(status.st_mode):
                return _stray(f"{name}/")
            if not stat.S_ISREG(status.st_mode):
                return _stray(name)
            return self._read_file(directory, entry.name, name, before)
        except FileNotFoundError:
            return None
        except OSError as error:
            self._keep(name, error)
            return None if before is None else _as_known(before)

    def _read_file(self, directory: int, file_name: str, name: str, before: _File | None) -> _File | None:
        began = time.time()
        # Non-blocking, lest a pipe put here meanwhile hold us up.
        descriptor = os.open(file_name, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=directory)
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
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
        expires = None
        if isinstance(record, Record) and record.ttl is not None:
            # The wall clock counts once; from here on the monotonic one does, so that a jump expires nothing.
            expires = time.monotonic() + record.ttl - max(0.0, now - status.st_mtime)
        return _File(key, value, _digest(key, value), None if young else _signature(status), expires)

    def _below(self, service: str) -> dict[str, _File]:
        return {name: _as_known(file) for name, file in self._files.items() if name.startswith(f"{service}/")}

    def _keep(self, name: str, error: OSError) -> None:
        self._problem = (
            self._problem
            or f"cannot read {_text(name)}, so what was known of it stands: {(error.strerror or '').lower()}"
        )


def _as_known(file: _File) -> _File:
    """What stands of a file that cannot be read now. Its owner may well be alive, so it does not expire any more."""
    expired = file.expires is not None and file.expires <= time.monotonic()
    return file if expired else replace(file, signature=None, expires=None)


def _stray(name: str) -> _File:
    """What is no record, listed nevertheless so that it is rejected where people look."""
    key = _text(name)
    return _File(key, b"", _digest(key, b""))


def _signature(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _digest(key: str, value: bytes) -> int:
    return int.from_bytes(blake2b(key.encode() + b"\0" + value, digest_size=16).digest())


def _text(name: str) -> str:
    """The name as text, bytes that are not UTF-8 escaped by a backslash, which no valid key has."""
    return name if name.isascii() else os.fsencode(name).decode(errors="backslashreplace")
