"""Several files, replaced together: all or none.

The staged files are written first, and renamed once all are there and checked. What was there before is kept until the
program has taken the new files, also on disk, so that a crash in between does not leave half of them.
"""

import base64
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from discovery import ApplyError
from discovery.toolkit import write_atomically
from discovery_template.files.places import Place, place_of, stage

_JOURNAL = "files.json"
"""Name in the state directory of what was there before a transaction that has not ended."""


class Contents(NamedTuple):
    """What a file is to contain, and the mode of the file if it is new."""

    data: bytes
    mode: int = 0o644


class Transaction:
    """Replaces files. `stage`, then `install`, then `commit` or `roll_back`; `discard` at any time before `install`."""

    def __init__(self, wanted: Mapping[Path, Contents], state_dir: Path) -> None:
        """Look at the files that differ from what is wanted. Raises ApplyError."""
        self._state_dir = state_dir
        places = {path: place_of(path) for path in wanted}
        if len({place.path for place in places.values()}) < len(places):
            raise ApplyError("two templates write the same file: name another file for one of them")
        self._changed = {
            place.path: (place, wanted[path]) for path, place in places.items() if place.contents != wanted[path].data
        }
        self._staged_by_path = {
            path: place.staged if place.path in self._changed else place.path for path, place in places.items()
        }
        self._installed: list[Place] = []

    @property
    def is_empty(self) -> bool:
        """True if every file is as wanted."""
        return not self._changed

    def staged(self, path: Path) -> Path:
        """Return the path at which the contents for `path` are staged; the file itself if it does not change."""
        return self._staged_by_path[path]

    def stage(self) -> None:
        """Write the staged files. Raises ApplyError, and then nothing is staged."""
        try:
            for place, contents in self._changed.values():
                stage(place, contents.data, contents.mode)
        except BaseException:
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
            write_journal(self._state_dir, [place for place, _ in self._changed.values()])
            for place, _ in self._changed.values():
                place.staged.replace(place.path)
                self._installed.append(place)
            for directory in {place.path.parent for place, _ in self._changed.values()}:
                _sync(directory)
        except OSError as error:
            self.roll_back()
            raise ApplyError(f"the files cannot be replaced: {error.strerror} ({error.filename})") from None

    def commit(self) -> None:
        """End the transaction: the new files stay."""
        self._installed.clear()
        remove_journal(self._state_dir)

    def roll_back(self) -> None:
        """Put the files back as they were. Raises OSError for the first file that cannot be put back."""
        self.discard()
        while self._installed:
            restore(self._installed[-1])
            self._installed.pop()
        remove_journal(self._state_dir)


def restore(place: Place) -> None:
    """Put a file back as it was, or remove the file if there was none. Raises OSError or ApplyError."""
    if place.contents is None:
        with suppress(FileNotFoundError):
            place.path.unlink()
        return
    stage(place, place.contents, place.mode)
    place.staged.replace(place.path)


def write_journal(state_dir: Path, places: list[Place]) -> None:
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


def remove_journal(state_dir: Path) -> None:
    """Forget what was there before."""
    with suppress(OSError):
        (state_dir / _JOURNAL).unlink()


def recover(state_dir: Path) -> list[Path]:
    """Put back what a daemon that died in a transaction has replaced. Return the paths of these files.

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
            restore(place)
            with suppress(OSError):
                place.staged.unlink()
    remove_journal(state_dir)
    return [place.path for place in places]


def _sync(directory: Path) -> None:
    from discovery.toolkit import sync_directory

    sync_directory(directory)
