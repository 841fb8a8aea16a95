"""The run directory, for files that live as long as a process, and locks there that outlive no process."""

import asyncio
import fcntl
import os
import pwd
import random
import stat
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from discovery.errors import CannotStartError, describe
from discovery.system.claims import PathClaim, PathClaimedError, claim
from discovery.system.files import ABSENT

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger  # loaded by those commands alone that log

_OPEN = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW

LOOK_EVERY = 0.5
"""Seconds between two looks whether a lock's file is still there."""
_LOOKING = 0.25
"""Seconds that other processes may need to look at a lock; a process that shares the lock for longer holds the lock."""
_AGAIN = 0.002
"""Seconds, at most, between two attempts to take a lock that another process looks at."""


def run_dir_path(override: Path | None = None) -> Path:
    """Where the run directory is, made or not.

    `override` (from `--run-dir` or DISCOVERY_RUN_DIR), else /run/discovery for root, $XDG_RUNTIME_DIR/discovery, or
    ~/.local/state/discovery/run. Raises CannotStartError if the user has no home.
    """
    if override is not None:
        return override.absolute()
    if os.geteuid() == 0:
        return Path("/run/discovery")
    if runtime := os.environ.get("XDG_RUNTIME_DIR"):
        return Path(runtime, "discovery")
    state = user_state_dir()
    if state is None:
        raise CannotStartError("this user has no home for a run directory; choose one with --run-dir")
    return state / "run"


def user_state_dir() -> Path | None:
    """Where this user's state is by default; None without a home."""
    if given := os.environ.get("XDG_STATE_HOME"):
        return Path(given, "discovery")
    with suppress(RuntimeError):
        return Path.home() / ".local/state/discovery"
    return None


def base_run_dir(override: Path | None = None) -> Path:
    """The run directory, made if missing.

    Raises CannotStartError if it cannot be made, or if it is not this user's alone to write to.
    """
    path = run_dir_path(override)
    try:
        if not make_private(path):
            check_run_dir(path)
    except OSError as error:
        raise CannotStartError(
            f"the run directory {path} cannot be made: {error.strerror}; choose another with --run-dir"
        ) from None
    return path


def make_private(path: Path) -> bool:
    """Make a directory, and missing directories above, for this user alone. Return True if missing. Raises OSError."""
    if path.is_dir():
        return False
    make_private(path.parent)
    try:
        path.mkdir(mode=0o700)
    except FileExistsError:  # it is another's, or no directory
        if path.is_dir():
            return False
        raise
    return True


def check_run_dir(path: Path, owner: int | None = None) -> None:
    """Ensure that only `owner`, by default this user, can write to a directory that exists.

    Raises CannotStartError, or OSError.
    """
    owner = os.geteuid() if owner is None else owner
    # Where anybody may make files, in /tmp say, a link may be another user's.
    status = path.lstat() if path.parent.stat().st_mode & stat.S_ISVTX else path.stat()
    what = f"the run directory {path}"
    if stat.S_ISLNK(status.st_mode):
        raise CannotStartError(
            f"{what} is a symbolic link in a directory for everybody; name its target with --run-dir"
        )
    if not stat.S_ISDIR(status.st_mode):
        raise CannotStartError(f"{what} is not a directory; choose another with --run-dir")
    if status.st_uid != owner:
        raise CannotStartError(
            f"{what} belongs to another user, {_user(status.st_uid)};"
            f" choose another with --run-dir, or run this as {_user(status.st_uid)}"
        )
    if status.st_mode & 0o022:
        raise CannotStartError(
            f"{what} can be written to by others (its mode is {stat.S_IMODE(status.st_mode):o});"
            f" run `chmod go-w {path}`, or choose another with --run-dir"
        )


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


class Lock:
    """A lock file, held until `release`, or until the process ends in any way.

    The path is claimed besides, so that no process takes the lock while the file is removed.
    """

    def __init__(self, path: Path, claimed: PathClaim | None, relock: Callable[[], int]) -> None:
        """Take over a claim of the path; `lock` makes these. `relock` makes and locks a file there."""
        self.path = path
        self._claimed = claimed
        self._descriptor: int | None = relock()
        self._relock = relock
        self._changing = threading.Lock()

    def renew(self) -> bool:
        """Make and lock the file again if the file has been removed. Return True if so. From any thread.

        Raises CannotStartError if the file cannot be made, or if another process has locked a file there meanwhile.
        """
        with self._changing:
            if self._claimed is not None:
                self._claimed.answer()
            if self._descriptor is None or _is_open_at(self.path, self._descriptor):
                return False
            before, self._descriptor = self._descriptor, self._relock()
            os.close(before)
        return True

    def release(self) -> None:
        """Remove the file and let go. Idempotent, and from any thread."""
        with self._changing:
            descriptor, self._descriptor = self._descriptor, None
            if descriptor is not None:
                with suppress(OSError):
                    if _is_open_at(self.path, descriptor):  # not another's
                        self.path.unlink()
                os.close(descriptor)
            if self._claimed is not None:
                self._claimed.close()

    def __enter__(self) -> Self:
        """Return the lock, which the end of the block releases."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Release the lock."""
        self.release()


def lock(path: Path, purpose: str, way_out: str = "stop it first, or choose another --run-dir") -> Lock:
    """Lock the file `path` (made if missing, with its directory) for this process, which `purpose` names.

    Raises CannotStartError if another process holds it (naming that process) or if the file cannot be used.
    """

    def relock() -> int:
        return _lock(path, purpose, way_out)

    try:
        claimed = claim(path)
    except PathClaimedError as error:
        raise _held(path, purpose, way_out, str(error.pid or "")) from None
    try:
        return Lock(path, claimed, relock)
    except BaseException:  # also a KeyboardInterrupt: the claim does not stand without its lock
        if claimed is not None:
            claimed.close()
        raise


async def keep(
    lock: Lock,
    run_dir: Path,
    log: "FilteringBoundLogger",
    *,
    look: Callable[[], bool] = lambda: False,
    changed: Callable[[str | None], None] = lambda _: None,
) -> None:
    """Make a lock and the run directory above again whenever a cleaner has removed either, until cancelled.

    `look` does so for what else belongs there, and says whether it had gone; it may raise OSError. `changed` is called
    when anything had to be made again, with None, and when it cannot be, with the reason. Both are logged.
    """
    known: str | None = None
    while True:
        await asyncio.sleep(LOOK_EVERY)
        try:
            if not run_dir.is_dir():
                base_run_dir(run_dir)
            had_gone, reason = lock.renew(), None
            had_gone |= look()
        except (CannotStartError, OSError) as error:
            had_gone, reason = False, describe(error)
        if had_gone:
            log.warning("files had been removed from the run directory, and were made again", run_dir=str(run_dir))
        if reason is not None and reason != known:
            log.error("files have been removed from the run directory, and cannot be made again", reason=reason)
        if had_gone or reason != known:
            changed(reason)
        known = reason


def _lock(path: Path, purpose: str, way_out: str) -> int:
    try:
        make_private(path.parent)
        while True:
            descriptor = os.open(path, _OPEN, 0o600)
            try:
                _take(descriptor)
                # The holder before us may have removed the file between our opening and our locking it.
                if _is_open_at(path, descriptor):
                    os.ftruncate(descriptor, 0)
                    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
                    return descriptor
            except BlockingIOError:
                pid = os.pread(descriptor, 20, 0).decode(errors="replace").strip()
                os.close(descriptor)
                raise _held(path, purpose, way_out, pid) from None
            except BaseException:  # also a KeyboardInterrupt: no descriptor is left open
                os.close(descriptor)
                raise
            os.close(descriptor)
    except OSError as error:
        raise CannotStartError(
            f"{purpose}: the lock {path} cannot be taken: {error.strerror}; choose another --run-dir"
        ) from None


def _held(path: Path, purpose: str, way_out: str, pid: str) -> CannotStartError:
    holder = f"process {pid}" if pid.isdigit() else "another process"
    return CannotStartError(f"{purpose} is already running as {holder}, which holds {path}; {way_out}")


def _take(descriptor: int) -> None:
    """Lock the file. Raises BlockingIOError if another process holds the lock, and not only looks at the lock."""
    until = time.monotonic() + _LOOKING
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not is_free(descriptor) or time.monotonic() > until:
                raise
        time.sleep(random.uniform(0, _AGAIN))  # noqa: S311 - not all who look at the same time again


def is_free(descriptor: int) -> bool:
    """Return True if no process holds the lock on an open file. Looking shares the lock for a moment."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    return True


def holder(path: Path) -> int | None:
    """Return the process that holds the lock `path`; None if none does, or none that can be seen from here.

    Raises OSError if that cannot be found out, as without a free descriptor.
    """
    try:
        pid = int(path.read_bytes()[:20])
        descriptors = list(Path(f"/proc/{pid}/fd").iterdir())
    except (*ABSENT, ValueError):
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
        return os.path.samestat(path.lstat(), os.fstat(descriptor))
    except (FileNotFoundError, NotADirectoryError):
        return False
