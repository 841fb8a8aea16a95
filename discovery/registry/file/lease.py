"""A lease of a file registry: keeps its records alive by updating the modification times of their files."""

import asyncio
import errno
import os
import stat
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from discovery.codec import MAX_VALUE, Record, decode, encode
from discovery.errors import LeaseLostError, OwnedByAnotherError, RegistryError
from discovery.model import Backend
from discovery.registry.file.beneath import UnsuitableError, open_beneath, open_regular
from discovery.registry.file.directory import clock, held, unavailable
from discovery.system.files import write_within

_TOUCHES_IN_TTL = 3
"""Renewals in a single TTL: two renewals may fail or be late before the lease expires."""
_POLL_SECONDS = 0.1
"""Seconds between two reads of refused keys: how late the owner of a free key may learn that the key is free."""
_POLL_SHARE = 10
"""Reads of very many refused keys take at most this fraction, 1/10, of a processor."""
_EXPIRY_MARGIN = 0.05
"""Seconds that a record must have been expired, so that the `put` which follows finds the record expired, too."""


class FileLease:
    """A lease whose records are files. Each file has the TTL; its modification time is the time of the last renewal."""

    def __init__(self, root: Path, owner: str, ttl: float) -> None:
        """Open the lease, and start its renewal. For `FileRegistry.open_lease` alone."""
        self.owner = owner
        self.ttl = ttl
        self._root = root
        # The inode and the contents of each record of this lease, by key. Used only inside `held`.
        self._written: dict[str, tuple[int, bytes]] = {}
        self._turn = asyncio.Lock()
        self._touched_at = time.monotonic()
        self._lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._ended: str | None = None
        self._keep_alive_task = asyncio.create_task(self._keep_alive())

    async def put(self, backend: Backend, *, force: bool = False) -> None:
        """See `Lease.put`."""
        await self._in_turn(self._put, backend.key, encode(backend, self.owner, self.ttl), force)

    async def delete(self, backend: Backend) -> None:
        """See `Lease.delete`."""
        await self._in_turn(self._delete, backend.key)

    async def sweep(self, keep: Collection[str], among: Collection[str] | None = None) -> frozenset[str]:
        """See `Lease.sweep`."""
        return await asyncio.to_thread(self._sweep, keep, among)

    async def until_free(self, keys: Collection[str]) -> None:
        """See `TellsWhenFree.until_free`. Polls the files."""
        ahead = await asyncio.to_thread(self._clock_ahead)
        while True:
            began = time.monotonic()
            if await asyncio.to_thread(self._any_free, keys, ahead):
                return
            await asyncio.sleep(max(_POLL_SECONDS, _POLL_SHARE * (time.monotonic() - began)))

    async def lost(self) -> str:
        """See `Lease.lost`."""
        return await asyncio.shield(self._lost)

    async def close(self) -> None:
        """See `Lease.close`."""
        self.abandon()
        # The thread of a cancelled `put` goes on. `_ended` keeps the thread from writing after the withdrawal.
        self._ended = self._ended or f"the lease of {self.owner} was closed"
        with suppress(RegistryError, OSError):
            await asyncio.to_thread(self._withdraw)

    async def _in_turn(self, work: Callable[..., None], *arguments: object) -> None:
        """Run `work` in a thread, after the threads of all earlier calls have ended, cancelled calls included."""
        await self._turn.acquire()
        working = asyncio.ensure_future(asyncio.to_thread(work, *arguments))
        working.add_done_callback(self._end_turn)
        # Not a shield: a current Python logs the exception of shielded work whose caller was cancelled.
        await asyncio.wait((working,))
        await working

    def _end_turn(self, working: "asyncio.Future[None]") -> None:
        self._turn.release()
        if not working.cancelled():
            working.exception()  # retrieved, so that asyncio logs nothing if the caller was cancelled

    def abandon(self) -> None:
        """Stop renewing the lease. The records stay until their TTL is over."""
        self._keep_alive_task.cancel()

    def _put(self, key: str, value: bytes, force: bool) -> None:
        with held(self._root) as root:
            self._check()
            found = self._read(root, key)
            if found is not None and found.identity == self._written.get(key):
                if found.value == value:
                    return
            elif found is not None and not force:
                self._refuse_unless_free(root, key, found)
            try:
                with _service(root, key, make=True) as (directory, name):
                    write_within(directory, name, value)
                    self._written[key] = os.stat(name, dir_fd=directory, follow_symlinks=False).st_ino, value
            except OSError as error:
                raise unavailable(f"write {self._root / key}", error) from None

    def _refuse_unless_free(self, root: int, key: str, found: "_RecordFile") -> None:
        record = decode(key, found.value)
        owner, ttl = (record.owner, record.ttl) if isinstance(record, Record) else (None, None)
        if owner == self.owner or (ttl is not None and clock(root) - found.modified > ttl):
            return
        raise OwnedByAnotherError.of(key, repr(owner) if owner else "an unnamed owner", owner)

    def _clock_ahead(self) -> float:
        with held(self._root) as root:
            return clock(root) - time.monotonic()

    def _any_free(self, keys: Collection[str], ahead: float) -> bool:
        with held(self._root) as root:
            now = time.monotonic() + ahead - _EXPIRY_MARGIN
            return any(self._is_free(root, key, now) for key in keys)

    def _is_free(self, root: int, key: str, now: float) -> bool:
        found = self._read(root, key)
        if found is None:
            return True
        record = decode(key, found.value)
        return isinstance(record, Record) and record.ttl is not None and now - found.modified > record.ttl

    def _delete(self, key: str) -> None:
        with held(self._root) as root:
            self._check()
            written = self._written.pop(key, None)
            if written is not None and self._is_unchanged(root, key, written):
                self._unlink(root, key)

    def _sweep(self, keep: Collection[str], among: Collection[str] | None) -> frozenset[str]:
        with held(self._root) as root:
            self._check()
            keys = self._keys(root) if among is None else among
            stale = [key for key in keys if key not in keep and self._left_behind(root, key)]
            for key in stale:
                self._unlink(root, key)
            return frozenset(stale)

    def _left_behind(self, root: int, key: str) -> bool:
        found = self._read(root, key)
        if found is None or found.identity == self._written.get(key):
            return False
        record = decode(key, found.value)
        return isinstance(record, Record) and record.owner == self.owner

    def _withdraw(self) -> None:
        with held(self._root) as root:
            for key, written in self._written.items():
                if self._is_unchanged(root, key, written):
                    self._unlink(root, key)
            self._written.clear()

    def _is_unchanged(self, root: int, key: str, written: tuple[int, bytes]) -> bool:
        found = self._read(root, key)
        return found is not None and found.identity == written

    def _check(self) -> None:
        if self._ended is not None:
            raise LeaseLostError(self._ended)

    async def _keep_alive(self) -> None:
        while not self._lost.done():
            await asyncio.sleep(self.ttl / _TOUCHES_IN_TTL)
            try:
                why = await asyncio.to_thread(self._touch_records)
            except RegistryError as error:
                # The lease is not lost while its TTL has not passed: the directory may come back with its files.
                why = f"the lease of {self.owner} expired: {error}" if self._overdue() else None
                self._ended = why
            if why is not None and not self._lost.done():
                self._lost.set_result(why)

    def _touch_records(self) -> str | None:
        """Renew every record of this lease. Return the reason if the lease is lost, else None."""
        with held(self._root) as root:
            if self._overdue():
                self._ended = f"the lease of {self.owner} expired: it was not renewed for {self.ttl:g} s"
                return self._ended
            for key, written in self._written.items():
                if not self._is_unchanged(root, key, written):
                    return f"the record {key} was removed or replaced by somebody else"
                try:
                    with _service(root, key) as (directory, name):
                        os.utime(name, dir_fd=directory, follow_symlinks=False)
                except OSError as error:
                    raise unavailable(f"touch {self._root / key}", error) from None
            self._touched_at = time.monotonic()
            return None

    def _overdue(self) -> bool:
        return time.monotonic() - self._touched_at > self.ttl

    def _keys(self, root: int) -> Iterator[str]:
        """Yield the keys of all records that this process may read, valid or not.

        Files that this process may not read are left out: they belong to another owner.
        """
        for service in self._entries(root, "."):
            if not service.is_file():
                for entry in self._entries(root, service.name):
                    key = f"{service.name}/{entry.name}"
                    # A symbolic link belongs to no lease: a lease writes regular files.
                    if not entry.is_symlink() and os.access(self._root / key, os.R_OK):
                        yield key

    def _entries(self, root: int, place: str) -> list[os.DirEntry[str]]:
        try:
            directory = open_beneath(root, place)
            try:
                with os.scandir(directory) as entries:
                    return [entry for entry in entries if not entry.name.startswith(".")]
            finally:
                os.close(directory)
        except (PermissionError, FileNotFoundError, NotADirectoryError, UnsuitableError):
            return []
        except OSError as error:
            raise unavailable(f"read the registry directory {self._root / place}", error) from None

    def _read(self, root: int, key: str) -> "_RecordFile | None":
        """Return the file at `key`, or None if there is no file. Raises as `held` does."""
        try:
            with _service(root, key) as (directory, name):
                status = os.stat(name, dir_fd=directory, follow_symlinks=False)
                try:
                    descriptor = open_regular(directory, name, status.st_mode)
                except UnsuitableError:
                    # Leases write regular files, so this entry belongs to another owner.
                    return _RecordFile(status.st_ino, b"", status.st_mtime)
                with os.fdopen(descriptor, "rb") as file:
                    status = os.fstat(descriptor)
                    return _RecordFile(status.st_ino, file.read(MAX_VALUE + 1), status.st_mtime)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise unavailable(f"read {self._root / key}", error) from None

    def _unlink(self, root: int, key: str) -> None:
        try:
            with _service(root, key) as (directory, name), suppress(FileNotFoundError):
                os.unlink(name, dir_fd=directory)
        except OSError as error:
            raise unavailable(f"remove {self._root / key}", error) from None


@dataclass(frozen=True, slots=True)
class _RecordFile:
    inode: int
    value: bytes
    modified: float

    @property
    def identity(self) -> tuple[int, bytes]:
        return self.inode, self.value


@contextmanager
def _service(root: int, key: str, *, make: bool = False) -> Iterator[tuple[int, str]]:
    """Open the directory of the service in `key`; yield the descriptor and the file's name. Raises OSError.

    With `make` a missing directory is created.
    """
    service, _, name = key.partition("/")
    if make:
        with suppress(FileExistsError):
            os.mkdir(service, dir_fd=root)
    directory = open_beneath(root, service)
    try:
        if not stat.S_ISDIR(os.fstat(directory).st_mode):
            raise NotADirectoryError(errno.ENOTDIR, "not a directory")
        yield directory, name
    finally:
        os.close(directory)
