"""Repeated scans of the directory, reported as registry events."""

import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import structlog

from discovery.codec import stated_ttl
from discovery.errors import RegistryError
from discovery.registry.base import Delta, RegistryEvent, Reset, Stale
from discovery.registry.file.directory import (
    REVISION_FILE,
    has_revision,
    held,
    settle_revision,
    stored_revision,
    unavailable,
)
from discovery.registry.file.tree import Tree
from discovery.system.filewatch import TreeWatch

_INTERVAL = 1.0
"""Seconds between two scans if the kernel reports no change, as on a network share: the delay of such a change."""
_SCAN_SHARE = 25
"""While the kernel reports no change, scans take at most this share, 1/25, of a processor."""
_MOST_INTERVAL = 10.0
"""Seconds between two scans at most: a scan may have taken long because the machine was busy."""

_log = structlog.get_logger("discovery.registry.file")


@dataclass(frozen=True, slots=True)
class ScanResult:
    """The events of a scan of the directory, and the time of the next scan.

    `again` is the time in seconds until the next scan if the kernel reports no change. `rest` is the shortest pause in
    seconds before the next scan: scans of a large directory that changes all the time take half a processor at most.
    """

    events: tuple[RegistryEvent, ...]
    again: float = _INTERVAL
    rest: float = 0.0


class DirectoryFollower:
    """Follows a directory for a single watch. The methods block; call them from one thread at a time."""

    def __init__(self, root: Path, hint: Callable[[], None]) -> None:
        """Follow `root`. The follower calls `hint`, on another thread, when the kernel reports a change."""
        self._root = root
        self._hint = hint
        self._tree = Tree()
        self._watch: TreeWatch | None = None
        self._identity: tuple[int, int] | None = None
        self._replaced = False
        self._lost = False
        self._revision = 0
        self._records: Mapping[str, bytes] | None = None
        self._digest = ""
        self._stale: str | None = None
        self._kept: Mapping[str, str] = {}
        self._closing = threading.Lock()
        self._closed = False

    def scan(self) -> ScanResult:
        """Scan the directory once. A failure is reported as a Stale event, never raised."""
        with self._closing:
            if self._closed:
                return ScanResult(())
            try:
                with held(self._root) as directory:
                    self._follow(directory)
                    return self._scan(directory)
            except RegistryError as error:
                return ScanResult(self._report_stale(str(error)))
            except OSError as error:
                return ScanResult(
                    self._report_stale(str(unavailable(f"read the registry directory {self._root}", error)))
                )

    def close(self) -> None:
        """Stop following. Waits for a scan in progress; later scans report nothing."""
        with self._closing:
            self._closed = True
            if self._watch is not None:
                self._watch.close()

    def _follow(self, directory: int) -> None:
        """Watch the directory that is open as `directory`: the path may lead to another directory than before."""
        status = os.fstat(directory)
        if self._identity == (status.st_dev, status.st_ino):
            return
        self._replaced = self._identity is not None
        self._identity = status.st_dev, status.st_ino
        if self._watch is not None:
            self._watch.close()
            self._watch = None
        try:
            self._watch = TreeWatch(self._root, self._hint)
        except OSError as error:
            _log.warning(
                "the kernel refuses to watch the registry directory, so it is scanned every second",
                directory=str(self._root),
                error=error.strerror,
            )

    def _scan(self, directory: int) -> ScanResult:
        began = time.monotonic()
        first = self._records is None
        listing = self._tree.scan(directory)
        spent = time.monotonic() - began
        if self._replaced and self._records and not listing.records and not has_revision(directory):
            # The directory of a mount point, after its file system was unmounted, looks the same.
            self._lost = True
            return ScanResult(
                self._report_stale(
                    f"the registry directory {self._root} was replaced by a new and empty directory;"
                    f" if that is intended, `touch {self._root / REVISION_FILE}`"
                )
            )
        self._replaced = False
        another = False
        if self._lost and listing.records and stored_revision(directory) < self._revision:
            # The new directory began without the old records. The missing records were lost, not withdrawn.
            self._revision, another = 0, True
        self._lost = False
        changed = another or first or listing.digest != self._digest
        if first and not listing.records and not has_revision(directory):
            # This may be a mount point without its file system. A revision file would declare the directory valid.
            revision, another = 0, True
        else:
            revision = settle_revision(directory, self._revision, listing.digest, changed=changed, write=not first)
        events: list[RegistryEvent] = []
        if another or self._records is None:
            records = MappingProxyType(listing.records)
            events.append(Reset(revision, records, _leases(listing.records), another=another))
        elif changed or revision > self._revision or (self._stale is not None and listing.problem is None):
            events.append(_delta(revision, self._records, listing.records if changed else self._records))
        if events:
            self._stale = None
        if listing.kept.keys() - self._kept.keys():
            name, reason = next(iter(listing.kept.items()))
            _log.warning(
                "files of the registry directory can no longer be read, so their last known records are kept",
                directory=str(self._root),
                count=len(listing.kept),
                first=name,
                reason=reason,
            )
        self._kept = listing.kept
        self._revision, self._records, self._digest = revision, listing.records, listing.digest
        if listing.problem is not None:
            events += self._report_stale(listing.problem)
        # Only a process that continues to follow writes the revision: at its second scan, which follows at once.
        again = 0.0 if first else max(_INTERVAL, min(_SCAN_SHARE * spent, _MOST_INTERVAL))
        return ScanResult(tuple(events), again if listing.again is None else min(again, listing.again), rest=spent)

    def _report_stale(self, reason: str) -> tuple[RegistryEvent, ...]:
        if reason == self._stale:
            return ()
        self._stale = reason
        return (Stale(reason),)


def _delta(revision: int, old: Mapping[str, bytes], new: Mapping[str, bytes]) -> Delta:
    if old is new:
        return Delta(revision, {})
    puts = {key: value for key, value in new.items() if not _same(old.get(key), value)}
    return Delta(revision, MappingProxyType(puts), frozenset(old.keys() - new.keys()), _leases(puts))


def _same(old: bytes | None, new: bytes) -> bool:
    return old == new and getattr(old, "reason", None) == getattr(new, "reason", None)


def _leases(records: Mapping[str, bytes]) -> dict[str, float]:
    return {key: ttl for key, value in records.items() if (ttl := stated_ttl(value)) is not None}
