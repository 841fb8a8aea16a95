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
    good = path.with_name(path.name + _LAST_GOOD)
    try:
        kept = _link(path, good)
        write_atomically(path, data, mode)
    except OSError as error:
        raise ApplyError(f"{path} cannot be written: {error.strerror}") from None
    try:
        await activate()
    except BaseException:
        # By a link, not a copy: this needs no space on the disk.
        with suppress(OSError):
            _link(good, path) if kept else path.unlink()
        raise


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
