"""The place of a file, with the owner, mode and attributes that a replacement keeps."""

import os
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from discovery.errors import ApplyError

_MOST_LINKS = 16
"""Symbolic links in a row: an operator's own have one or two."""
STAGED = "discovery-new"
"""Suffix of a staged file, whose name also begins with a dot: patterns such as `*.conf` do not match the name."""


@dataclass(frozen=True)
class Place:
    """The present state of a file. The last part of `path` is no symbolic link; `contents` is None without a file."""

    path: Path
    contents: bytes | None = None
    mode: int = 0
    uid: int = 0
    gid: int = 0
    attributes: tuple[tuple[str, bytes], ...] = ()

    @property
    def staged(self) -> Path:
        """Path of the staged file: beside the file, so that a rename replaces the file at once."""
        return self.path.with_name(f".{self.path.name}.{STAGED}")


def place_of(path: Path) -> Place:
    """Return the present state of the file at `path`. Raises ApplyError if the file is none that can be replaced.

    A symbolic link is followed to the file that is replaced, and the link stays. A link is followed only if it belongs
    to root or to this user: another user's link could lead anywhere.
    """
    real = _followed(path)
    try:
        descriptor = os.open(real, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        if not real.parent.is_dir():
            raise ApplyError(f"{path} cannot be written: there is no directory {real.parent}") from None
        return Place(real)
    except OSError as error:
        raise ApplyError(f"{path} cannot be read: {error.strerror}") from None
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)  # `open` takes no descriptor of a directory, and would leave it open
        kind = "a directory" if stat.S_ISDIR(status.st_mode) else "no regular file"
        raise ApplyError(f"{path} is {kind}: name a file")
    with open(descriptor, "rb") as file:  # noqa: PTH123 - a descriptor
        return Place(
            real, file.read(), stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid, _attributes(descriptor)
        )


def read(path: Path) -> bytes | None:
    """Return the contents of a file; None if the file cannot be read."""
    try:
        return path.read_bytes()
    except OSError:
        return None


def _followed(path: Path) -> Path:
    for _ in range(_MOST_LINKS):
        try:
            status = path.lstat()
        except OSError:
            return path
        if not stat.S_ISLNK(status.st_mode):
            return path
        if status.st_uid not in (0, os.geteuid()):
            raise ApplyError(f"{path} is a symbolic link of another user, which is not followed: name the file itself")
        path = path.parent / path.readlink()
    raise ApplyError(f"{path} is behind too many symbolic links: name the file itself")


def _attributes(descriptor: int) -> tuple[tuple[str, bytes], ...]:
    """Return the extended attributes, among them access control lists and labels of SELinux."""
    found = []
    with suppress(OSError):
        for name in sorted(os.listxattr(descriptor)):
            with suppress(OSError):
                found.append((name, os.getxattr(descriptor, name)))
    return tuple(found)


def stage(place: Place, contents: bytes, mode: int) -> None:
    """Write the staged file of `place`, with the owner, mode and attributes of the present file.

    `mode` is the mode of a file that is new. Raises ApplyError, and then there is no staged file.
    """
    path = place.staged
    is_new = place.contents is None
    try:
        with suppress(FileNotFoundError):
            path.unlink()  # of a daemon that has died
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ApplyError(f"{place.path} cannot be written: {error.strerror} in {path.parent}") from None
    try:
        with open(descriptor, "wb") as file:  # noqa: PTH123 - a descriptor
            file.write(contents)
            file.flush()
            if not is_new and (os.fstat(descriptor).st_uid, os.fstat(descriptor).st_gid) != (place.uid, place.gid):
                os.fchown(descriptor, place.uid, place.gid)
            os.fchmod(descriptor, mode if is_new else place.mode)
            for name, value in place.attributes:
                with suppress(OSError):
                    os.setxattr(descriptor, name, value)
            os.fsync(descriptor)
    except OSError as error:
        with suppress(OSError):
            path.unlink()
        what = "its owner cannot be kept" if isinstance(error, PermissionError) else error.strerror
        raise ApplyError(f"{place.path} cannot be replaced: {what}") from None
