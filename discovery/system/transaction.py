"""Several files, replaced together: all or none.

The staged files are written first, and renamed once all are there and checked. What was there before is kept until the
program has taken the new files, also on disk, so that a crash in between does not leave half of them.
"""

import base64
import json
import os
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from discovery.errors import ApplyError
from discovery.system.either import completed
from discovery.system.files import sync_directory, write_atomically
from discovery.system.places import Place, place_of, stage

_JOURNAL = "files.json"
"""Name in the state directory of what was there before a transaction that has not ended."""


class FileContents(NamedTuple):
    """The contents of a file, `data`, and the `mode` of a new file."""

    data: bytes
    mode: int = 0o644


class FileTransaction:
    """Replaces several files, all or none. A file keeps its owner, mode and attributes; a link to a file stays.

    `deploy` does all of that in turn. Or step by step: `stage` writes the files beside those that they replace, where a
    program can check them. `install` replaces the files, and `commit` or `roll_back` ends the transaction, once the
    program has shown the new state or failed to. `discard` gives the transaction up at any time before `install`. A
    daemon that dies between leaves the former files on disk, which `recover_files` puts back.
    """

    def __init__(self, wanted: Mapping[Path, FileContents], state_dir: Path) -> None:
        """Look at the files that differ from what is `wanted`, by path. `state_dir` is that of the instance.

        Raises ApplyError if a file cannot be replaced.
        """
        self._state_dir = state_dir
        places = {path: place_of(path) for path in wanted}
        if len({place.path for place in places.values()}) < len(places):
            raise ApplyError("two of the files are the same file: name another file for one of them")
        self._changed = {
            place.path: (place, wanted[path]) for path, place in places.items() if place.contents != wanted[path].data
        }
        self._staged_by_path = {
            path: place.staged if place.path in self._changed else place.path for path, place in places.items()
        }
        self._installed: list[Place] = []

    async def deploy(
        self,
        check: Callable[["FileTransaction"], Awaitable[None] | None],
        activate: Callable[[], Awaitable[None] | None],
    ) -> None:
        """Stage the files, check them, replace the files, and make a program use them; or leave everything as before.

        `check` is called with this transaction once the files are staged. `activate` is called once the files are
        replaced: it reloads or starts the program, and proves the new state. After an exception of `activate` the
        former files are put back and, if there were any, `activate` is called again for them. Each may be a function or
        a coroutine function. Raises what they raise, and ApplyError or OSError if a file cannot be written.
        """
        self.stage()
        try:
            await completed(check(self))
        except BaseException:  # also a cancellation: no staged file stays
            self.discard()
            raise
        self.install()
        try:
            await completed(activate())
        except BaseException as error:  # also a cancellation: the former files are put back
            had_files = any(place.contents is not None for place, _ in self._changed.values())
            self.roll_back()
            if had_files and isinstance(error, Exception):
                with suppress(ApplyError, OSError):  # the first failure is reported
                    await completed(activate())
            raise
        self.commit()

    @property
    def is_empty(self) -> bool:
        """True if every file is as wanted."""
        return not self._changed

    def staged(self, path: Path) -> Path:
        """Return the path at which the contents for `path` are staged; that of the file if the file does not change."""
        return self._staged_by_path[path]

    def stage(self) -> None:
        """Write the staged files. Raises ApplyError, and then nothing is staged."""
        try:
            for place, contents in self._changed.values():
                stage(place, contents.data, contents.mode)
        except BaseException:  # also a KeyboardInterrupt: no staged file stays
            self.discard()
            raise

    def discard(self) -> None:
        """Remove the staged files."""
        for place, _ in self._changed.values():
            with suppress(OSError):
                place.staged.unlink()

    def install(self) -> None:
        """Replace the files by the staged files. Raises ApplyError, and then every file is as before."""
        try:
            _write_journal(self._state_dir, [place for place, _ in self._changed.values()])
            for place, _ in self._changed.values():
                place.staged.replace(place.path)
                self._installed.append(place)
            for directory in {place.path.parent for place, _ in self._changed.values()}:
                sync_directory(directory)
        except OSError as error:
            self.roll_back()
            raise ApplyError(f"the files cannot be replaced: {error.strerror} ({error.filename})") from None

    def commit(self) -> None:
        """End the transaction: the new files stay."""
        self._installed.clear()
        _remove_journal(self._state_dir)

    def roll_back(self) -> None:
        """Put the former files back. Raises OSError for the first file that cannot be put back."""
        self.discard()
        while self._installed:
            _restore(self._installed[-1])
            self._installed.pop()
        _remove_journal(self._state_dir)


def _restore(place: Place) -> None:
    """Put the former file back, or remove the new file. Raises OSError or ApplyError."""
    if place.contents is None:
        with suppress(FileNotFoundError):
            place.path.unlink()
        return
    stage(place, place.contents, place.mode)
    place.staged.replace(place.path)


def _write_journal(state_dir: Path, places: list[Place]) -> None:
    """Keep what was there before. Raises OSError."""
    state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    entries = [
        {
            "path": os.fspath(place.path),
            "contents": None if place.contents is None else base64.b64encode(place.contents).decode(),
            "mode": place.mode,
            "uid": place.uid,
            "gid": place.gid,
        }
        for place in places
    ]
    write_atomically(state_dir / _JOURNAL, json.dumps(entries).encode(), 0o600)


def _remove_journal(state_dir: Path) -> None:
    """Forget what was there before."""
    with suppress(OSError):
        (state_dir / _JOURNAL).unlink()


def recover_files(state_dir: Path) -> list[Path]:
    """Put back what a daemon that died in a transaction has replaced. Return the paths of these files.

    `state_dir` is that of the instance. `setup` of a consumer calls this function.

    Raises OSError or ApplyError if a file cannot be put back. A journal that cannot be read is removed.
    """
    try:
        entries = json.loads((state_dir / _JOURNAL).read_bytes())
    except FileNotFoundError:
        return []
    except ValueError:
        entries = []
    places = []
    for entry in entries:
        contents = None if entry["contents"] is None else base64.b64decode(entry["contents"])
        places.append(Place(Path(entry["path"]), contents, entry["mode"], entry["uid"], entry["gid"]))
    for place in places:
        if place.path.parent.is_dir():
            _restore(place)
            with suppress(OSError):
                place.staged.unlink()
    _remove_journal(state_dir)
    return [place.path for place in places]
