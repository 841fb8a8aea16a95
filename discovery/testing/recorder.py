"""A record of the files, sockets and processes that code touches."""

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar, Self


class Recorder:
    """Records the files, sockets and processes that code touches, by Python's audit events. Imports are not recorded.

    Python cannot remove an audit hook, so all recorders share a single hook, which does nothing while no recorder is
    entered.
    """

    _current: ClassVar["Recorder | None"] = None
    _installed: ClassVar[bool] = False

    def __init__(self) -> None:
        """Create a recorder, which records nothing before `__enter__`."""
        self.events: list[str] = []

    def __enter__(self) -> Self:
        """Start to record. An entered recorder replaces the recorder before."""
        if not Recorder._installed:
            Recorder._installed = True
            sys.addaudithook(Recorder._hear)
        Recorder._current = self
        return self

    def __exit__(self, *_: object) -> None:
        """Stop recording."""
        Recorder._current = None

    @staticmethod
    def _hear(event: str, args: tuple[object, ...]) -> None:
        recorder = Recorder._current
        if recorder is None:
            return
        if event == "open":
            path, mode, flags = args
            if isinstance(path, str) and (path.startswith("/dev/") or path.endswith((".py", ".pyc", ".so"))):
                return
            writes = isinstance(flags, int) and flags & 0b11
            recorder.events.append(f"{'write' if writes else 'read'} {path} {mode}")
        elif event in _WRITES:
            recorder.events.append(f"write {event} {args}")
        elif event in _TOUCHES:
            recorder.events.append(f"{event} {args}")


_WRITES = frozenset(
    {"os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink", "os.link", "os.chmod", "os.truncate"}
)
_TOUCHES = frozenset({"socket.bind", "socket.connect", "socket.getaddrinfo", "subprocess.Popen", "os.exec", "os.fork"})


def touched_by(make: Callable[[Path], object]) -> list[str]:
    """Return the recorded events of a call of `make` with a directory that does not exist."""
    with tempfile.TemporaryDirectory() as directory:
        with Recorder() as recorder:
            make(Path(directory) / "not there")
        return recorder.events
