"""A configuration file replaced, and put back if what it is for fails."""

import os
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

from discovery.errors import ApplyError
from discovery.files import write_atomically

_LAST_GOOD = ".last-good"


async def install(path: Path, data: bytes, activate: Callable[[], Awaitable[None]], *, mode: int) -> None:
    """Replace `path` by `data`, then `activate` it; if that fails, put the old file back and raise the failure.

    The file that was there is kept beside it as `*.last-good`. Raises ApplyError if `path` cannot be written, too.
    """
    try:
        kept = _link(path, last_good(path))
        write_atomically(path, data, mode)
    except OSError as error:
        raise ApplyError(f"{path} cannot be written: {error.strerror}") from None
    try:
        await activate()
    except BaseException:
        # By a link, not a copy: this needs no space on the disk.
        with suppress(OSError):
            restore(path) if kept else path.unlink()
        raise


def last_good(path: Path) -> Path:
    """Where the file that `path` replaced is kept."""
    return path.with_name(path.name + _LAST_GOOD)


def restore(path: Path) -> None:
    """Put the last good file back. Raises OSError."""
    _link(last_good(path), path)


def _link(source: Path, target: Path) -> bool:
    """Make `target` another name of the file `source`; False if there is none."""
    temporary = target.with_name(f".{target.name}.link")
    with suppress(FileNotFoundError):
        temporary.unlink()
    try:
        os.link(source, temporary)
    except FileNotFoundError:
        return False
    except OSError:
        write_atomically(target, source.read_bytes(), source.stat().st_mode & 0o777)
        return True
    temporary.replace(target)
    return True
