"""Opens files and directories beneath a directory. Symbolic links are followed, but never out of it.

The walk goes from descriptor to descriptor and never follows a link by itself, so that nobody who changes a link or a
directory meanwhile can lead it out. It gives what `openat2` with `RESOLVE_BENEATH` gives, on every kernel; in addition
an absolute link that begins with the directory's own resolved path is followed.
"""

import errno
import os
import stat
from pathlib import Path

MOST_LINKS = 40
"""Links in one walk, as in Linux."""

_TO_PASS = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_TO_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class UnsuitableError(OSError):
    """The path leads out of the directory, or ends at neither a regular file nor a directory."""


def open_beneath(root: int, path: str) -> int:
    """A readable descriptor of the regular file or directory at `path`, relative to the directory open as `root`.

    Raises UnsuitableError, or any other OSError. A pipe or device is never opened.
    """
    passed: list[int] = []  # the descriptors of the directories on the way, the innermost last
    parts = _parts(path)
    links = 0
    try:
        while parts:
            part, here = parts.pop(), passed[-1] if passed else root
            if part == "..":
                if not passed:
                    raise _outside()
                os.close(passed.pop())
                continue
            mode = os.stat(part, dir_fd=here, follow_symlinks=False).st_mode
            if stat.S_ISLNK(mode):
                links += 1
                if links > MOST_LINKS:
                    raise UnsuitableError(errno.ELOOP, "too many symbolic links, perhaps a loop")
                target = os.readlink(part, dir_fd=here)
                if target.startswith("/"):
                    target = _relative(root, target)
                    _close(passed)
                parts += _parts(target)
            elif stat.S_ISDIR(mode):
                passed.append(os.open(part, _TO_PASS, dir_fd=here))
            elif parts:
                raise NotADirectoryError(errno.ENOTDIR, "not a directory")
            else:
                return open_regular(here, part, mode)
        return os.open(".", _TO_READ | os.O_DIRECTORY, dir_fd=passed[-1] if passed else root)
    finally:
        _close(passed)


def open_regular(directory: int, name: str, mode: int) -> int:
    """A readable descriptor of the regular file `name` in the open `directory`.

    `mode` is what was seen of it, so that a device is not opened. Raises as `open_beneath` does.
    """
    if not stat.S_ISREG(mode):
        raise UnsuitableError(errno.EINVAL, f"it is {_kind(mode)} and not a regular file")
    descriptor = os.open(name, _TO_READ, dir_fd=directory)
    if not stat.S_ISREG(now := os.fstat(descriptor).st_mode):  # another took its place
        os.close(descriptor)
        raise UnsuitableError(errno.EINVAL, f"it is {_kind(now)} and not a regular file")
    return descriptor


def _parts(path: str) -> list[str]:
    """The components of a path, the first last."""
    return [part for part in reversed(path.split("/")) if part not in ("", ".")]


def _relative(root: int, target: str) -> str:
    try:
        place = str(Path(f"/proc/self/fd/{root}").readlink())
    except OSError:
        raise _outside() from None
    if not f"{target}/".startswith(f"{place.rstrip('/')}/"):
        raise _outside()
    return target[len(place) :]


def _outside() -> UnsuitableError:
    return UnsuitableError(errno.EXDEV, "the symbolic link leads out of the registry's directory")


def _close(descriptors: list[int]) -> None:
    while descriptors:
        os.close(descriptors.pop())


def _kind(mode: int) -> str:
    for is_kind, kind in (
        (stat.S_ISFIFO, "a pipe"),
        (stat.S_ISSOCK, "a socket"),
        (stat.S_ISDIR, "a directory"),
        (stat.S_ISLNK, "a symbolic link"),
    ):
        if is_kind(mode):
            return kind
    return "a device"
