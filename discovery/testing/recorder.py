"""A record of the files, sockets and processes that code touches, and failures of its writes."""

import errno
import os
import sys
import tempfile
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar, Self

Listener = Callable[[str, tuple[object, ...]], None]


_aside = threading.local()
"""Tells of a thread whether what happens there is not the plugin's."""


@contextmanager
def unrecorded() -> Iterator[None]:
    """Let recorders and failures leave out what this thread does within the block: it is not the plugin's."""
    _aside.is_aside = True
    try:
        yield
    finally:
        _aside.is_aside = False


class Recorder:
    """Records the files, sockets and processes that code touches, by Python's audit events. Imports are not recorded.

    Python cannot remove an audit hook, so all recorders share a single hook, which does nothing while no recorder is
    entered. Only this thread is recorded, and the threads that begin after the first recorder of this thread: those of
    its event loop's default executor, and a plugin's own.
    """

    _current: ClassVar["Recorder | None"] = None
    _listener: ClassVar[Listener | None] = None
    _thread: ClassVar[int | None] = None
    _others: ClassVar["weakref.WeakSet[threading.Thread]"] = weakref.WeakSet()
    """The threads that had begun before this thread was recorded."""
    _installed: ClassVar[bool] = False

    def __init__(self, look: Callable[[], None] = lambda: None) -> None:
        """Create a recorder, which records nothing before `__enter__`. `look` is called before each recorded event."""
        self.events: list[str] = []
        self.written: list[str] = []
        """The paths that were written, created or removed."""
        self.moved: list[tuple[str, str]] = []
        """The old and the new path of each rename between absolute paths."""
        self._look = look
        self._writes: list[tuple[str, list[str]]] = []

    def __enter__(self) -> Self:
        """Start to record. An entered recorder replaces the recorder before."""
        Recorder._install()
        Recorder._current = self
        return self

    def __exit__(self, *_: object) -> None:
        """Stop recording."""
        Recorder._current = None

    @property
    def writes(self) -> list[str]:
        """The events that change files."""
        return [event for event in self.events if event.startswith("write ")]

    @property
    def lasting_writes(self) -> list[str]:
        """The events that change files, but for those in temporary directories that are gone.

        A program that checks a configuration may need a directory of its own, in which it finds the file.
        """
        place = tempfile.gettempdir()
        gone = [path for path in self.written if os.path.dirname(path) == place and not os.path.exists(path)]  # noqa: PTH110, PTH120
        within = tuple(f"{path}/" for path in gone)

        def is_gone(paths: list[str]) -> bool:
            return all(path in gone or path.startswith(within) or not path.startswith("/") for path in paths)

        return [event for event, paths in self._writes if not (gone and is_gone(paths))]

    @classmethod
    def _install(cls) -> None:
        if cls._thread != threading.get_ident():
            cls._thread = threading.get_ident()
            cls._others = weakref.WeakSet(each for each in threading.enumerate() if each.ident != cls._thread)
        if not cls._installed:
            cls._installed = True
            sys.addaudithook(cls._hear)

    @staticmethod
    def _hear(event: str, args: tuple[object, ...]) -> None:
        recorder, listener = Recorder._current, Recorder._listener
        if recorder is None and listener is None:
            return
        if threading.get_ident() != Recorder._thread and threading.current_thread() in Recorder._others:
            return
        if getattr(_aside, "is_aside", False):
            return
        if recorder is not None:
            recorder.take(event, args)
        if listener is not None:
            listener(event, args)

    def take(self, event: str, args: tuple[object, ...]) -> None:
        """Note an audit event, if the event is about a file, a socket or a process."""
        if event == "open":
            path, mode, _ = args
            if _is_of_the_system(path):
                return
            writes = writes_file(event, args)
            self._note(f"{'write' if writes else 'read'} {path!s} {mode}", [path] if writes else [])
        elif event in _WRITES:
            if any("__pycache__" in str(each) for each in args):
                return
            paths: list[object] = [each for each in args if isinstance(each, str | bytes | os.PathLike)]
            self._note(f"write {event} {args}", paths)
            if event == "os.rename" and len(paths) == 2:
                source, target = (os.fsdecode(each) for each in paths)  # type: ignore[arg-type]
                if source.startswith("/") and target.startswith("/"):
                    self.moved.append((source, target))
        elif event in _TOUCHES:
            self._note(f"{event} {args}", _bound_path(event, args))

    def _note(self, event: str, paths: list[object]) -> None:
        self._look()
        self.events.append(event)
        written = [os.fsdecode(path) for path in paths if isinstance(path, str | bytes | os.PathLike)]
        self.written += written
        if event.startswith("write "):
            self._writes.append((event, written))


_WRITES = frozenset(
    {
        "os.mkdir",
        "os.remove",
        "os.rename",
        "os.rmdir",
        "os.symlink",
        "os.link",
        "os.chmod",
        "os.truncate",
        "sqlite3.connect",
    }
)
_TOUCHES = frozenset(
    {
        "socket.bind",
        "socket.connect",
        "socket.getaddrinfo",
        "socket.gethostbyname",
        "subprocess.Popen",
        "os.exec",
        "os.fork",
        "os.posix_spawn",
        "os.system",
    }
)


def writes_file(event: str, args: tuple[object, ...]) -> bool:
    """Return True if an audit event opens a file to write."""
    if event != "open":
        return False
    path, _, flags = args
    if _is_of_the_system(path) or str(path).startswith(("/proc/", "/sys/")):
        return False
    return isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR))


@contextmanager
def failing_writes() -> Iterator[list[str]]:
    """Let every file that this thread opens to write, and every rename, fail as on a full disk.

    Yields the list of the operations that have failed.
    """
    failed: list[str] = []

    def listen(event: str, args: tuple[object, ...]) -> None:
        if writes_file(event, args) or event == "os.rename":
            failed.append(f"{event} {args[0]}")
            raise OSError(errno.ENOSPC, "No space left on device (by the contract)", args[0])

    Recorder._install()  # noqa: SLF001 - the same hook
    Recorder._listener = listen  # noqa: SLF001
    try:
        yield failed
    finally:
        Recorder._listener = None  # noqa: SLF001


def touched_by(make: Callable[[Path], object]) -> list[str]:
    """Return the recorded events of a call of `make` with a directory that does not exist."""
    with tempfile.TemporaryDirectory() as directory:
        with Recorder() as recorder:
            make(Path(directory) / "not there")
        return recorder.events


def _is_of_the_system(path: object) -> bool:
    if isinstance(path, bytes):
        path = os.fsdecode(path)
    text = str(path)
    return (
        not isinstance(path, str | os.PathLike)
        or text.startswith("/dev/")
        or "__pycache__" in text
        or text.endswith((".py", ".so"))
    )


def _bound_path(event: str, args: tuple[object, ...]) -> list[object]:
    if event == "socket.bind" and len(args) > 1 and isinstance(args[1], str | bytes):
        path = os.fsdecode(args[1])
        return [path] if path and not path.startswith("\0") else []
    return []
