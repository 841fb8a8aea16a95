"""Replacement of a configuration file, undone if the activation of the new file fails."""

import os
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

from discovery import ApplyError
from discovery.toolkit import sync_directory, write_atomically

_LAST_GOOD = ".last-good"
_STAGED = ".new"


def stage(path: Path, data: bytes, mode: int, owner: tuple[int, int] | None = None) -> None:
    """Write the next content of `path` beside `path`, durably, as `*.new`. A refused content stays there.

    `owner` is the user and group of the file; this process keeps the file if it may not change the owner. Raises
    ApplyError if the file cannot be written.
    """
    staged = _beside(path, _STAGED)
    try:
        write_atomically(staged, data, mode)
        if owner is not None:
            with suppress(PermissionError):
                os.chown(staged, *owner)
    except FileNotFoundError:
        raise ApplyError(f"{path} cannot be written: there is no directory {path.parent}") from None
    except OSError as error:
        raise ApplyError(f"{path} cannot be written: {error.strerror}") from None


async def install(path: Path, activate: Callable[[], Awaitable[None]]) -> None:
    """Replace `path` by the staged file and call `activate`. If `activate` raises, undo the replacement and re-raise.

    The previous file is kept beside `path` as `*.last-good`. Raises ApplyError if `path` cannot be replaced.
    """
    try:
        kept = _link(path, last_good(path))
        _beside(path, _STAGED).replace(path)
    except OSError as error:
        raise ApplyError(f"{path} cannot be written: {error.strerror}") from None
    try:
        await activate()
    except BaseException:
        # By links, not copies: links need no space on the disk.
        with suppress(OSError):
            _link(path, _beside(path, _STAGED))
        with suppress(OSError):
            restore(path) if kept else path.unlink()
        raise
    sync_directory(path.parent)


def last_good(path: Path) -> Path:
    """Return the path of the last good file, which `path` replaced."""
    return _beside(path, _LAST_GOOD)


def restore(path: Path) -> None:
    """Replace `path` by the last good file. Raises OSError."""
    _link(last_good(path), path)


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _link(source: Path, target: Path) -> bool:
    """Make `target` another name of the file `source`; return False if `source` does not exist."""
    temporary = target.with_name(f".{target.name}.link")
    temporary.unlink(missing_ok=True)
    try:
        os.link(source, temporary)
    except FileNotFoundError:
        return False
    except OSError:
        write_atomically(target, source.read_bytes(), source.stat().st_mode & 0o777)
        return True
    try:
        temporary.replace(target)
    finally:
        # A rename to another link of the same file does nothing: both links stay.
        temporary.unlink(missing_ok=True)
    return True
