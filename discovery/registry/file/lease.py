"""Registrations in the directory, kept fresh by touching their files."""

import asyncio
import os
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from pathlib import Path

from discovery.codec import MAX_VALUE, Record, decode, encode, key_of
from discovery.errors import LeaseLostError, OwnedByAnotherError, RegistryError
from discovery.files import write_atomically
from discovery.model import Backend
from discovery.registry.file.directory import held, unavailable

_BEATS = 3
"""Heartbeats in one TTL."""


class FileLease:
    """A lease whose records are files: each carries the TTL, and its modification time is the last sign of life."""

    def __init__(self, root: Path, owner: str, ttl: float) -> None:
        """Open it and keep it alive; `FileRegistry.open_lease` does."""
        self.owner = owner
        self.ttl = ttl
        self._root = root
        # Key to the inode and the contents that are ours. Used only while the directory is held.
        self._ours: dict[str, tuple[int, bytes]] = {}
        self._turn = asyncio.Lock()
        self._beaten = time.monotonic()
        self._lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._ended: str | None = None
        self._heart = asyncio.create_task(self._live())

    async def put(self, backend: Backend, *, force: bool = False) -> None:
        """See `Lease.put`."""
        await self._in_turn(self._put, key_of(backend), encode(backend, self.owner, self.ttl), force)

    async def delete(self, backend: Backend) -> None:
        """See `Lease.delete`."""
        await self._in_turn(self._delete, key_of(backend))

    async def sweep(self, keep: Collection[str], among: Collection[str] | None = None) -> frozenset[str]:
        """See `Lease.sweep`."""
        return await asyncio.to_thread(self._sweep, keep, among)

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
        """One after the other, since a thread cannot be cancelled: what is given up must not overtake what follows."""
        await self._turn.acquire()
        working = asyncio.ensure_future(asyncio.to_thread(work, *arguments))
        working.add_done_callback(self._end_turn)
        await asyncio.shield(working)

    def _end_turn(self, working: "asyncio.Future[None]") -> None:
        self._turn.release()
        if not working.cancelled():
            working.exception()  # whoever gave it up does not ask

    def abandon(self) -> None:
        """Stop keeping it alive, without withdrawing anything."""
        self._heart.cancel()

    def _put(self, key: str, value: bytes, force: bool) -> None:
        path = self._root / key
        with held(self._root):
            self._check()
            there = _read(path)
            if there is not None and there == self._ours.get(key):
                if there[1] == value:
                    return
            elif there is not None and not force:
                self._refuse_unless_free(key, path, there[1])
            try:
                path.parent.mkdir(exist_ok=True)
                write_atomically(path, value)
                self._ours[key] = path.stat().st_ino, value
            except OSError as error:
                raise unavailable(f"write {path}", error) from None

    def _refuse_unless_free(self, key: str, path: Path, value: bytes) -> None:
        record = decode(key, value)
        owner, ttl = (record.owner, record.ttl) if isinstance(record, Record) else (None, None)
        if owner == self.owner or (ttl is not None and time.time() - path.stat().st_mtime > ttl):
            return
        raise OwnedByAnotherError(f"{key} belongs to {owner or 'an unnamed owner'} and was left alone")

    def _delete(self, key: str) -> None:
        path = self._root / key
        with held(self._root):
            self._check()
            ours = self._ours.pop(key, None)
            if ours is not None and ours == _read(path):
                _unlink(path)

    def _sweep(self, keep: Collection[str], among: Collection[str] | None) -> frozenset[str]:
        with held(self._root):
            self._check()
            keys = _keys(self._root) if among is None else among
            stale = [key for key in keys if key not in keep and self._left_behind(key)]
            for key in stale:
                _unlink(self._root / key)
            return frozenset(stale)

    def _left_behind(self, key: str) -> bool:
        there = _read(self._root / key)
        if there is None or there == self._ours.get(key):
            return False
        record = decode(key, there[1])
        return isinstance(record, Record) and record.owner == self.owner

    def _withdraw(self) -> None:
        with held(self._root):
            for key, ours in self._ours.items():
                if ours == _read(self._root / key):
                    _unlink(self._root / key)
            self._ours.clear()

    def _check(self) -> None:
        if self._ended is not None:
            raise LeaseLostError(self._ended)

    async def _live(self) -> None:
        while not self._lost.done():
            await asyncio.sleep(self.ttl / _BEATS)
            try:
                why = await asyncio.to_thread(self._beat)
            except RegistryError as error:
                # Unreachable is not lost: until the TTL has passed, the directory may come back with our files in it.
                why = f"the lease of {self.owner} expired: {error}" if self._overdue() else None
                self._ended = why
            if why is not None and not self._lost.done():
                self._lost.set_result(why)

    def _beat(self) -> str | None:
        """Touch every file of ours. Returns why the lease is lost, if it is."""
        with held(self._root):
            if self._overdue():
                self._ended = f"the lease of {self.owner} expired: it showed no sign of life for {self.ttl:g} s"
                return self._ended
            for key, ours in self._ours.items():
                path = self._root / key
                if ours != _read(path):
                    return f"the record {key} was removed or replaced by somebody else"
                try:
                    os.utime(path)
                except OSError as error:
                    raise unavailable(f"touch {path}", error) from None
            self._beaten = time.monotonic()
            return None

    def _overdue(self) -> bool:
        return time.monotonic() - self._beaten > self.ttl


def _keys(root: Path) -> Iterator[str]:
    """Where records are, valid or not. What cannot be looked into is left out: its owner is another."""
    for service in _entries(root):
        if service.is_dir():
            for entry in _entries(Path(service)):
                if entry.is_file() and os.access(entry, os.R_OK):
                    yield f"{service.name}/{entry.name}"


def _entries(directory: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(directory) as entries:
            return [entry for entry in entries if not entry.name.startswith(".")]
    except (PermissionError, FileNotFoundError):
        return []
    except OSError as error:
        raise unavailable(f"read the registry directory {directory}", error) from None


def _read(path: Path) -> tuple[int, bytes] | None:
    """The file's inode and contents, None if there is none. Raises as `held` does."""
    try:
        with open(path, "rb", opener=_open) as file:
            return os.fstat(file.fileno()).st_ino, file.read(MAX_VALUE + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise unavailable(f"read {path}", error) from None


def _open(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


def _unlink(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise unavailable(f"remove {path}", error) from None
