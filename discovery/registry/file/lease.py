"""A lease of a file registry: keeps its records alive by updating the modification times of their files."""

import asyncio
import errno
import os
import stat
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from discovery.codec import MAX_VALUE, Record, decode, encode
from discovery.errors import CannotBeAskedError, LeaseLostError, OwnedByAnotherError, RegistryError
from discovery.model import Backend
from discovery.registry.file import requests
from discovery.registry.file.beneath import UnsuitableError, open_beneath, open_regular
from discovery.registry.file.directory import clock, held, unavailable
from discovery.registry.requests import Request
from discovery.system.files import write_within

T = TypeVar("T")

_TOUCHES_IN_TTL = 3
"""Renewals in a single TTL: two renewals may fail or be late before the lease expires."""
_POLL_SECONDS = 0.1
"""Seconds between two reads of refused keys: how late the owner of a free key may learn that the key is free."""
_ANSWER_SECONDS = 0.2
"""Seconds between two looks for requests of other owners: each look without requests is a single system call."""
_POLL_SHARE = 10
"""Reads of very many refused keys take at most this fraction, 1/10, of a processor."""
_MOST_POLL_SECONDS = 1.0
"""Seconds between two reads of refused keys at most: a read may have taken long because it waited for the lock."""
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
        # The owners that are about to take records of this lease, by key. Used only inside `held`.
        self._granted: dict[str, str] = {}
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
            pause = min(_POLL_SHARE * (time.monotonic() - began), _MOST_POLL_SECONDS)
            await asyncio.sleep(max(_POLL_SECONDS, pause))

    async def take_over(self, backend: Backend) -> None:
        """See `HandsOver.take_over`. Polls the files."""
        key, value = backend.key, encode(backend, self.owner, self.ttl)
        try:
            while not await self._in_turn(self._take, key, value):  # noqa: ASYNC110 - the answer sets no event
                await asyncio.sleep(_POLL_SECONDS)
        finally:
            with suppress(RegistryError):
                await asyncio.to_thread(self._withdraw_request, key)

    async def handed_over(self) -> tuple[str, str]:
        """See `HandsOver.handed_over`. Polls the directory of requests."""
        while (handed := await asyncio.to_thread(self._answer)) is None:  # noqa: ASYNC110 - a request sets no event
            await asyncio.sleep(_ANSWER_SECONDS)
        return handed

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

    async def _in_turn(self, work: Callable[..., T], *arguments: object) -> T:
        """Run `work` in a thread, after the threads of all earlier calls have ended, cancelled calls included."""
        await self._turn.acquire()
        working = asyncio.ensure_future(asyncio.to_thread(work, *arguments))
        working.add_done_callback(self._end_turn)
        # Not a shield: a current Python logs the exception of shielded work whose caller was cancelled.
        await asyncio.wait((working,))
        return await working

    def _end_turn(self, working: "asyncio.Future[Any]") -> None:
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
            self._write(root, key, value)

    def _write(self, root: int, key: str, value: bytes) -> None:
        try:
            with _service(root, key, make=True) as (directory, name):
                write_within(directory, name, value)
                self._written[key] = os.stat(name, dir_fd=directory, follow_symlinks=False).st_ino, value
        except OSError as error:
            raise unavailable(f"write {self._root / key}", error) from None

    def _refuse_unless_free(self, root: int, key: str, found: "_RecordFile") -> None:
        """Raise OwnedByAnotherError if the record `found` belongs to another owner that lives."""
        record = decode(key, found.value)
        owner, ttl = (record.owner, record.ttl) if isinstance(record, Record) else (None, None)
        if owner == self.owner or (ttl is not None and clock(root) - found.modified > ttl):
            return
        raise OwnedByAnotherError.of(key, repr(owner) if owner else "an unnamed owner", owner)

    def _take(self, key: str, value: bytes) -> bool:
        """Ask for the record at `key`, or write the record if it is free or granted. Returns True if written."""
        with held(self._root) as root:
            self._check()
            found = self._read(root, key)
            if found is not None and found.identity != self._written.get(key):
                try:
                    self._refuse_unless_free(root, key, found)
                except OwnedByAnotherError as error:
                    if error.owner is None:
                        raise CannotBeAskedError.of(key, "an unnamed owner", None) from None
                    if not self._ask(root, key, error.owner):
                        return False
            self._write(root, key, value)
            return True

    def _ask(self, root: int, key: str, owner: str) -> bool:
        """Store a request for the record of `owner`, unless another owner has; return True if `owner` has agreed."""
        try:
            stored = requests.read(root, key)
            if stored is not None and stored.fresh and stored.request.owner != self.owner:
                return False
            if stored is not None and stored.request == Request(self.owner, owner, granted=True):
                return True
            requests.write(root, key, Request(self.owner, owner))  # also as a sign of life
        except OSError as error:
            raise unavailable(f"ask for {self._root / key}", error) from None
        return False

    def _withdraw_request(self, key: str) -> None:
        with held(self._root) as root:
            try:
                stored = requests.read(root, key)
                if stored is not None and stored.request.owner == self.owner:
                    requests.remove(root, key)
            except OSError as error:
                raise unavailable(f"withdraw the request for {self._root / key}", error) from None

    def _answer(self) -> tuple[str, str] | None:
        """Agree to requests for records of this lease; return a record that has a new owner, and the owner."""
        if not self._granted and not requests.any_request(self._root):
            return None
        with held(self._root) as root:
            self._check()
            try:
                asked = {key for key in requests.keys(root) if self._grant(root, key)}
            except OSError as error:
                raise unavailable(f"read the requests in {self._root}", error) from None
            for key in self._granted.keys() - asked:
                owner, written = self._granted.pop(key), self._written.get(key)
                if written is not None and not self._is_unchanged(root, key, written):
                    del self._written[key]
                    # The owner that has asked may have removed the record since, or handed the record over.
                    found = self._read(root, key)
                    record = None if found is None else decode(key, found.value)
                    return key, (record.owner if isinstance(record, Record) else None) or owner
        return None

    def _grant(self, root: int, key: str) -> bool:
        """Agree to the request for `key` if the record is this lease's. Returns True while such a request stands."""
        stored, written = requests.read(root, key), self._written.get(key)
        if stored is not None and not stored.fresh:
            with suppress(PermissionError):  # of another user
                requests.remove(root, key)  # its owner has ended without a withdrawal
            return False
        if stored is None or stored.request.of != self.owner or written is None:
            return False
        if self._is_unchanged(root, key, written):
            if not stored.request.granted:
                requests.write(root, key, replace(stored.request, granted=True))
            self._granted[key] = stored.request.owner
        return True

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
                    if key in self._granted:
                        continue  # its new owner has it; `_answer` tells that
                    return f"the record {key} was removed or replaced by another client"
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
