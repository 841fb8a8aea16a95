"""Replacement of a configuration file and of its map files, undone if the activation of the new files fails."""

import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from discovery import ApplyError
from discovery.toolkit import sync_directory, write_atomically
from discovery_haproxy.rendering.route_map import belongs_to, route_map_path

_LAST_GOOD = ".last-good"
_STAGED = ".new"


def stage_all(
    path: Path,
    data: Sequence[bytes],
    maps: Mapping[Path, str],
    mode: int,
    owner: tuple[int, int] | None = None,
    *,
    durable: bool = True,
) -> tuple[Path, ...]:
    """Stage the next contents of the configuration file `path`, here in parts, and of its map files.

    Return the maps for `install`. A map that has its next contents already is left alone. Raises ApplyError if a file
    cannot be written.
    """
    changed = tuple(each for each, contents in maps.items() if not has_contents(each, contents))
    for each in changed:
        stage(each, (maps[each].encode(),), mode, owner, durable=durable)
    stage(path, data, mode, owner, durable=durable)
    return changed


def has_contents(path: Path, contents: str) -> bool:
    """Report whether `path` is a file with exactly these contents."""
    try:
        return path.read_text(errors="surrogateescape") == contents
    except OSError:
        return False


def stage(
    path: Path, data: Sequence[bytes], mode: int, owner: tuple[int, int] | None = None, *, durable: bool = True
) -> None:
    """Write the next content of `path`, here in parts, beside `path` as `*.new`. A refused content stays there.

    `owner` is the user and group of the file; this process keeps the file if it may not change the owner. Without
    `durable` the disk is not waited for, and a crash of the machine may lose the content. Raises ApplyError if the file
    cannot be written.
    """
    staged = _beside(path, _STAGED)
    try:
        write_atomically(staged, data, mode, durable=durable)
        if owner is not None:
            with suppress(PermissionError):
                os.chown(staged, *owner)
    except FileNotFoundError:
        raise ApplyError(f"{path} cannot be written: there is no directory {path.parent}") from None
    except OSError as error:
        raise ApplyError(f"{path} cannot be written: {error.strerror}") from None


async def install(
    path: Path, maps: Sequence[Path], activate: Callable[[], Awaitable[None]], *, durable: bool = True
) -> None:
    """Replace `maps`, then `path`, by the staged files and call `activate`. If `activate` raises, undo and re-raise.

    The previous files are kept beside the new files as `*.last-good`. Raises ApplyError if a file cannot be replaced.
    At every moment HAProxy can start: a map is there before a configuration names that map, and is removed after that
    configuration; with `durable` also on the disk.
    """
    replaced: list[tuple[Path, bool]] = []
    try:
        for each in (*maps, path):
            if durable and each is path and maps:
                sync_directory(path.parent)
            replaced.append((each, _replace(each)))
        await activate()
    except BaseException:  # also a cancellation: the former files are put back
        for each, kept in reversed(replaced):
            _undo(each, kept)
        raise
    if durable:
        sync_directory(path.parent)


def _replace(path: Path) -> bool:
    """Replace `path` by the staged file. Return True if there was a file, which is kept. Raises ApplyError."""
    try:
        kept = _link(path, last_good(path))
        _beside(path, _STAGED).replace(path)
    except OSError as error:
        raise ApplyError(f"{path} cannot be written: {error.strerror}") from None
    return kept


def _undo(path: Path, kept: bool) -> None:
    """Make `path` the staged file again, and put back the previous file, if there was one."""
    # By links, not copies: links need no space on the disk.
    with suppress(OSError):
        _link(path, _beside(path, _STAGED))
    with suppress(OSError):
        restore(path) if kept else path.unlink()


def last_good(path: Path) -> Path:
    """Return the path of the last good file, which `path` replaced."""
    return _beside(path, _LAST_GOOD)


def restore(path: Path) -> None:
    """Replace `path` by the last good file. Raises OSError."""
    _link(last_good(path), path)


def restore_routes(config: Path) -> None:
    """Put back the last good map of routes if that map alone belongs to the configuration file. Raises OSError."""
    text, routes = config.read_text(errors="surrogateescape"), route_map_path(config)
    is_there = routes.exists() and belongs_to(routes, routes.read_text(), text)
    if not is_there and belongs_to(routes, last_good(routes).read_text(), text):
        restore(routes)


@lru_cache(maxsize=16)
def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


@lru_cache(maxsize=16)
def _temporary(target: Path) -> Path:
    return target.with_name(f".{target.name}.link")


def _link(source: Path, target: Path) -> bool:
    """Make `target` another name of the file `source`; return False if `source` does not exist."""
    temporary = _temporary(target)
    try:
        try:
            os.link(source, temporary)
        except FileExistsError:  # of a daemon that died
            temporary.unlink()
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
