"""Registrations in the directory, kept fresh by touching their files."""

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
"""Heartbeats in one TTL."""
_LOOK_SECONDS = 0.1
_LOOK_SHARE = 10  # looking at very many refused keys takes at most a tenth of a processor
_CERTAINLY = 0.05  # seconds: what has expired here must have expired for the put that follows


class FileLease:
    """A lease whose records are files: each carries the TTL, and its modification time is the last sign of life."""

    def __init__(self, root: Path, owner: str, ttl: float) -> None:
        """Open the lease and keep the lease alive; `FileRegistry.open_lease` does."""
        self.owner = owner
        self.ttl = ttl
        self._root = root
        # Key to the inode and the contents that are ours. Used only while the directory is held.
        self._ours: dict[str, tuple[int, bytes]] = {}
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
        """See `TellsWhenFree.until_free`. Looks at the files again and again."""
        ahead = await asyncio.to_thread(self._clock_ahead)
        while True:
            began = time.monotonic()
            if await asyncio.to_thread(self._any_free, keys, ahead):
                return
            await asyncio.sleep(max(_LOOK_SECONDS, _LOOK_SHARE * (time.monotonic() - began)))

    async def lost(self) -> str:
        """See `Lease.lost`."""
        return await asyncio.shield(self._lost)

    async def close(self) -> None:
        """See `Lease.close`."""
        self.abandon()
        # A put that was given up goes on in its thread: it must not write after we have withdrawn.
        self._ended = self._ended or f"the lease of {self.owner} was closed"
        with suppress(RegistryError, OSError):
            await asyncio.to_thread(self._withdraw)

    async def _in_turn(self, work: Callable[..., None], *arguments: object) -> None:
        """Run `work` in a thread, after the calls before it: a cancelled call's thread goes on, and must end first."""
        await self._turn.acquire()
        working = asyncio.ensure_future(asyncio.to_thread(work, *arguments))
        working.add_done_callback(self._end_turn)
        # Not a shield: a current Python logs the exception of shielded work whose caller was cancelled.
        await asyncio.wait((working,))
        await working

    def _end_turn(self, working: "asyncio.Future[None]") -> None:
        self._turn.release()
        if not working.cancelled():
            working.exception()  # marked as seen: a cancelled caller does not ask

    def abandon(self) -> None:
        """Stop keeping the lease alive, without withdrawing anything."""
        self._keep_alive_task.cancel()

    def _put(self, key: str, value: bytes, force: bool) -> None:
        with held(self._root) as root:
            self._check()
            found = self._read(root, key)
            if found is not None and found.identity == self._ours.get(key):
                if found.value == value:
                    return
            elif found is not None and not force:
                self._refuse_unless_free(root, key, found)
            try:
                with _service(root, key, make=True) as (directory, name):
                    write_within(directory, name, value)
                    self._ours[key] = os.stat(name, dir_fd=directory, follow_symlinks=False).st_ino, value
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
            now = time.monotonic() + ahead - _CERTAINLY
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
            ours = self._ours.pop(key, None)
            if ours is not None and self._is_ours(root, key, ours):
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
        if found is None or found.identity == self._ours.get(key):
            return False
        record = decode(key, found.value)
        return isinstance(record, Record) and record.owner == self.owner

    def _withdraw(self) -> None:
        with held(self._root) as root:
            for key, ours in self._ours.items():
                if self._is_ours(root, key, ours):
                    self._unlink(root, key)
            self._ours.clear()

    def _is_ours(self, root: int, key: str, ours: tuple[int, bytes]) -> bool:
        found = self._read(root, key)
        return found is not None and found.identity == ours

    def _check(self) -> None:
        if self._ended is not None:
            raise LeaseLostError(self._ended)

    async def _keep_alive(self) -> None:
        while not self._lost.done():
            await asyncio.sleep(self.ttl / _TOUCHES_IN_TTL)
            try:
                why = await asyncio.to_thread(self._touch_records)
            except RegistryError as error:
                # Unreachable is not lost: until the TTL has passed, the directory may come back with our files in it.
                why = f"the lease of {self.owner} expired: {error}" if self._overdue() else None
                self._ended = why
            if why is not None and not self._lost.done():
                self._lost.set_result(why)

    def _touch_records(self) -> str | None:
        """Touch every file of this lease. Returns the reason if the lease is lost."""
        with held(self._root) as root:
            if self._overdue():
                self._ended = f"the lease of {self.owner} expired: it showed no sign of life for {self.ttl:g} s"
                return self._ended
            for key, ours in self._ours.items():
                if not self._is_ours(root, key, ours):
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
        """Where records are, valid or not. What cannot be looked into is left out: its owner is another."""
        for service in self._entries(root, "."):
            if not service.is_file():
                for entry in self._entries(root, service.name):
                    key = f"{service.name}/{entry.name}"
                    # A link is no lease's: a lease writes regular files.
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
        """The contents at the key; None if there are none. Raises as `held` does."""
        try:
            with _service(root, key) as (directory, name):
                status = os.stat(name, dir_fd=directory, follow_symlinks=False)
                try:
                    descriptor = open_regular(directory, name, status.st_mode)
                except UnsuitableError:
                    # What is no regular file is no lease's, so it belongs to another.
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
    """The open directory of the key's service, made if `make` says so, and the file's name. Raises OSError."""
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
