"""Opens files and directories beneath a root directory. Symbolic links are followed only within the root directory.

The walk opens each component relative to the descriptor of its parent directory, and reads symbolic links by itself
instead of letting the kernel follow them. So a link or directory that changes during the walk cannot lead out of the
root directory. The result is that of `openat2` with `RESOLVE_BENEATH`, on every kernel, except that an absolute link is
followed if its target begins with the resolved path of the root directory.
"""

import errno
import os
import stat
from pathlib import Path

MOST_LINKS = 40
"""Symbolic links in a single walk: the limit of Linux."""

_TRAVERSE_FLAGS = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class UnsuitableError(OSError):
    """The path leads out of the directory, or ends at neither a regular file nor a directory."""


def open_beneath(root: int, path: str) -> int:
    """Return a readable descriptor of the regular file or directory at `path`, relative to the open directory `root`.

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
                passed.append(os.open(part, _TRAVERSE_FLAGS, dir_fd=here))
            elif parts:
                raise NotADirectoryError(errno.ENOTDIR, "not a directory")
            else:
                return open_regular(here, part, mode)
        return os.open(".", _READ_FLAGS | os.O_DIRECTORY, dir_fd=passed[-1] if passed else root)
    finally:
        _close(passed)


def open_regular(directory: int, name: str, mode: int) -> int:
    """Return a readable descriptor of the regular file `name` in the open `directory`.

    `mode` is the file's mode (`st_mode`), so that no pipe or device is opened. Raises as `open_beneath` does.
    """
    if not stat.S_ISREG(mode):
        raise UnsuitableError(errno.EINVAL, f"it is {_kind(mode)} and not a regular file")
    descriptor = os.open(name, _READ_FLAGS, dir_fd=directory)
    if not stat.S_ISREG(now := os.fstat(descriptor).st_mode):  # another file has replaced the file since then
        os.close(descriptor)
        raise UnsuitableError(errno.EINVAL, f"it is {_kind(now)} and not a regular file")
    return descriptor


def _parts(path: str) -> list[str]:
    """Return the components of a path in reverse order, so that `pop` returns the first component."""
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
