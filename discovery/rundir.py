"""The directory for what lives as long as a process does, and locks in it that outlive no process."""

import fcntl
import os
import stat
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from discovery.errors import CannotStartError

_OPEN = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW


SOCKET_PATH_BYTES = 107
"""What the address of a Unix socket holds: unix(7)'s sun_path, less the zero at its end."""


def is_too_long_for_a_socket(path: Path, suffix: int = 0) -> bool:
    """Whether a Unix socket cannot have this path, with as many more bytes as its program adds for a while."""
    return len(os.fsencode(path)) + suffix > SOCKET_PATH_BYTES


def run_dir_path(override: Path | None = None) -> Path:
    """Where the run directory is, made or not.

    `override` (from `--run-dir` or DISCOVERY_RUN_DIR), else /run/discovery for root, $XDG_RUNTIME_DIR/discovery, or
    /tmp/discovery-UID.
    """
    if override is not None:
        return override.absolute()
    if os.geteuid() == 0:
        return Path("/run/discovery")
    if runtime := os.environ.get("XDG_RUNTIME_DIR"):
        return Path(runtime, "discovery")
    return Path(f"/tmp/discovery-{os.geteuid()}")  # noqa: S108 - checked before it is used


def base_run_dir(override: Path | None = None) -> Path:
    """The run directory, made if missing.

    Raises CannotStartError if it cannot be made, or if others can write to it and to its parent.
    """
    path = run_dir_path(override)
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        # In /tmp anybody could have made it before us, or put a link there.
        status = path.lstat() if path.parent.stat().st_mode & stat.S_ISVTX else None
    except OSError as error:
        raise CannotStartError(
            f"the run directory {path} cannot be made: {error.strerror}; choose another with --run-dir"
        ) from None
    if status and not (stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & 0o022):
        raise CannotStartError(
            f"the run directory {path} can be written to by others; remove it, or choose another with --run-dir"
        )
    return path


class Lock:
    """A lock file that is held until `release`, or until the process ends, however it ends."""

    def __init__(self, path: Path, descriptor: int) -> None:
        """Take over a locked descriptor; `lock` makes these."""
        self.path = path
        self._descriptor: int | None = descriptor

    def release(self) -> None:
        """Remove the file and let go. Idempotent, and from any thread."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            with suppress(OSError):
                self.path.unlink()
            os.close(descriptor)

    def __enter__(self) -> Self:
        """Hold it for a block."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Release it."""
        self.release()


def lock(path: Path, purpose: str, way_out: str = "stop it first, or choose another --run-dir") -> Lock:
    """Lock the file `path` (made if missing, with its directory) for this process, which `purpose` names.

    Raises CannotStartError if another process holds it (naming that process) or if the file cannot be used.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        while True:
            descriptor = os.open(path, _OPEN, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # The holder before us may have removed the file between our opening and our locking it.
                if _is_open_at(path, descriptor):
                    os.ftruncate(descriptor, 0)
                    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
                    return Lock(path, descriptor)
            except BlockingIOError:
                pid = os.pread(descriptor, 20, 0).decode(errors="replace").strip()
                holder = f"process {pid}" if pid.isdigit() else "another process"
                os.close(descriptor)
                raise CannotStartError(
                    f"{purpose} is already running as {holder}, which holds {path}; {way_out}"
                ) from None
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)
    except OSError as error:
        raise CannotStartError(
            f"{purpose}: the lock {path} cannot be taken: {error.strerror}; choose another --run-dir"
        ) from None


def holder(path: Path) -> int | None:
    """The process that holds the lock `path`; None if none does, or none that can be seen from here."""
    try:
        pid = int(path.read_bytes()[:20])
        descriptors = list(Path(f"/proc/{pid}/fd").iterdir())
    except (OSError, ValueError):
        return None
    # What is written there may be of one that has died, and the number another's by now.
    return pid if any(_is_same(path, each) for each in descriptors) else None


def _is_same(path: Path, other: Path) -> bool:
    try:
        return path.samefile(other)
    except OSError:
        return False


def _is_open_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
