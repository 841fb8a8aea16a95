"""Files: written whole or not at all, and watched."""

import logging
import os
import secrets
import warnings
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer

_READ_ONLY = frozenset({"opened", "closed_no_write"})

# An emitter that we have just stopped says so as an error, now and then.
logging.getLogger("watchdog.observers.inotify").addFilter(lambda record: "thread is inactive" not in str(record.msg))
# A directory that took another's place may be watched twice for a moment, which does no harm.
warnings.filterwarnings("ignore", "Callback with id", RuntimeWarning)


def write_atomically(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Replace `path` by `data`, durably: temporary file, fsync, rename, fsync of the directory. Raises OSError."""
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        write_within(directory, path.name, data, mode)
    finally:
        os.close(directory)


def write_within(directory: int, name: str, data: bytes, mode: int = 0o644) -> None:
    """As `write_atomically`, of the file `name` in the directory open as `directory`."""
    # Not named after the file, whose name may already be as long as names can be; exclusive, so no link is followed.
    temporary = f".{secrets.token_hex(8)}.tmp"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(temporary, flags, 0o600, dir_fd=directory)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, mode)
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        os.replace(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary, dir_fd=directory)
        raise
    os.fsync(directory)


class FileWatch:
    """Calls `changed`, on a thread of its own, after any of `paths` may have changed, been made or been removed.

    The directories are watched, so that files replaced by renaming are followed. A hint, not a fact: look at the file.
    """

    def __init__(self, paths: Iterable[Path], changed: Callable[[], None]) -> None:
        """Begin to watch. Raises OSError if a path's directory is missing or cannot be watched."""
        absolute = {path.absolute() for path in paths}
        # A link's own directory tells of a new link, its target's of new contents.
        files = absolute | {path.resolve() for path in absolute}
        self._observer = Observer()
        handler = _Handler({str(file) for file in files}, changed)
        for directory in {file.parent for file in files}:
            self._observer.schedule(handler, str(directory))
        self._observer.start()

    def close(self) -> None:
        """Stop watching; `changed` is not called after this."""
        self._observer.stop()
        self._observer.join()


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
    def __init__(self, files: set[str], changed: Callable[[], None]) -> None:
        self._files = files
        self._changed = changed

    def on_any_event(self, event: FileSystemEvent) -> None:
        if event.event_type not in _READ_ONLY and _touched(event) & self._files:
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
