"""Files and directories, watched."""

import logging
import os
import stat
import threading
import warnings
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer
from watchdog.observers.api import ObservedWatch

_LOOK_EVERY = 1.0
"""Seconds between two looks at the paths, for changes of which the kernel reports nothing."""
_MOST_LINKS = 40
"""Symbolic links in one path, as in the kernel: a path with more is a loop."""

_READ_ONLY = frozenset({"opened", "closed_no_write"})

# An emitter that we have just stopped says so as an error, now and then.
logging.getLogger("watchdog.observers.inotify").addFilter(lambda record: "thread is inactive" not in str(record.msg))
# A directory that took another's place may be watched twice for a moment, which does no harm.
warnings.filterwarnings("ignore", "Callback with id", RuntimeWarning)


class FileWatch:
    """Calls `changed` after any of `paths` may have changed, appeared or disappeared.

    A path may lead through symbolic links, also in its directories: each link and its target are watched, and the paths
    are resolved again after every event and every second, since a link may get another target. A call is a hint, not a
    fact: the function looks at the files itself.

    `changed` runs on a thread of the watch, one call at a time, so `changed` only passes the news on:
    `Context.request_apply` is a fit. An exception of `changed` ends the watch.
    """

    def __init__(self, paths: Iterable[Path], changed: Callable[[], None]) -> None:
        """Begin to watch. Raises OSError if a path's directory is missing or cannot be watched."""
        self._paths = sorted({path.absolute() for path in paths})
        self._changed = changed
        self._names: frozenset[str] = frozenset()
        self._watches: dict[tuple[str, int, int], ObservedWatch] = {}
        self._event = threading.Event()
        self._closing = False
        self._observer = Observer()
        self._handler = _Handler(lambda: self._names, self._event.set)
        for path in self._paths:
            path.parent.stat()
        self._seen = self._resolve()
        self._arm()
        self._observer.start()
        self._thread = threading.Thread(target=self._follow, name="files", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop watching; `changed` is not called after the return. Idempotent. From any thread, also from `changed`."""
        self._closing = True
        self._event.set()
        if self._thread is not threading.current_thread():
            self._thread.join()
        self._observer.stop()
        self._observer.join()

    def _follow(self) -> None:
        while not self._closing:
            hinted = self._event.wait(_LOOK_EVERY)
            self._event.clear()
            before, self._seen = self._seen, self._resolve()
            with suppress(OSError):  # what cannot be watched is still looked at every second
                self._arm()
            if (hinted or self._seen != before) and not self._closing:
                self._changed()

    def _resolve(self) -> tuple[object, ...]:
        """Note the names that the paths lead through now; return them, and how the files at their ends look."""
        chains = tuple(_chain(path) for path in self._paths)
        self._names = frozenset(name for chain in chains for name in chain.names)
        return chains

    def _arm(self) -> None:
        """Have the kernel tell of changes to these names. Raises OSError if it refuses."""
        wanted: dict[tuple[str, int, int], str] = {}
        for directory in {Path(name).parent for name in self._names}:
            with suppress(FileNotFoundError):
                status = directory.stat()
                # By its identity as well: another directory may have taken the name.
                wanted[str(directory), status.st_dev, status.st_ino] = str(directory)
        for key in self._watches.keys() - wanted.keys():
            with suppress(KeyError, OSError):  # the directory, and its watch with it, are gone
                self._observer.unschedule(self._watches.pop(key))
        for key in wanted.keys() - self._watches.keys():
            self._watches[key] = self._observer.schedule(self._handler, wanted[key])


@dataclass(frozen=True, slots=True)
class _Chain:
    """The names that decide what a path leads to, each in a directory that is no link, and how the file there looks."""

    names: tuple[str, ...]
    looks: tuple[int, ...] | None


def _chain(path: Path) -> _Chain:
    names: list[str] = []
    here, parts = Path("/"), [*reversed(path.parts[1:])]
    while parts and len(names) < _MOST_LINKS:
        part = parts.pop()
        place = here.parent if part == ".." else here / part
        try:
            status = place.lstat()
            if stat.S_ISLNK(status.st_mode):
                names.append(str(place))
                target = place.readlink()
                here = Path("/") if target.is_absolute() else here
                parts += [each for each in reversed(target.parts) if each != "/"]
            elif parts:
                here = place
            else:
                looks = status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
                return _Chain((*names, str(place)), looks)
        except OSError:  # what is missing now may be made
            return _Chain((*names, str(place)), None)
    return _Chain(tuple(names), None)  # a loop


class TreeWatch:
    """Calls `changed`, on a thread of its own, after anything in a directory or below may have changed.

    Dot-files and what is in dot-directories are left out. A hint, not a fact, and not a promise: links below the
    directory are not followed, and the kernel drops events when too many come at once.
    """

    def __init__(self, directory: Path, changed: Callable[[], None]) -> None:
        """Begin to watch. Raises OSError if the directory is missing or the kernel's limit on watches is reached."""
        root = directory.resolve()
        self._observer = Observer()
        self._observer.schedule(_TreeHandler(root, changed), str(root), recursive=True)
        self._observer.start()

    def close(self) -> None:
        """Stop watching; `changed` is not called after this."""
        self._observer.stop()
        self._observer.join()


class _Handler(FileSystemEventHandler):
    def __init__(self, names: Callable[[], frozenset[str]], changed: Callable[[], None]) -> None:
        self._names = names
        self._changed = changed

    def on_any_event(self, event: FileSystemEvent) -> None:
        if event.event_type not in _READ_ONLY and _touched(event) & self._names():
            self._changed()


class _TreeHandler(FileSystemEventHandler):
    def __init__(self, root: Path, changed: Callable[[], None]) -> None:
        self._start = len(str(root))
        self._changed = changed

    def on_any_event(self, event: FileSystemEvent) -> None:
        # A directory is modified by what happens in it, which is told itself.
        if event.event_type in _READ_ONLY or (event.is_directory and event.event_type == "modified"):
            return
        if any("/." not in path[self._start :] for path in _touched(event)):
            self._changed()


def _touched(event: FileSystemEvent) -> set[str]:
    return {os.fsdecode(path) for path in (event.src_path, event.dest_path) if path}
