"""Edits of the configuration file of an external HAProxy: reported, and kept before discovery replaces the file."""

import hashlib
import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from structlog.typing import FilteringBoundLogger

from discovery import ApplyError
from discovery_haproxy.external.ownership import is_foreign, keep, original, read
from discovery_haproxy.rendering.route_map import belongs_to
from discovery_haproxy.text.edits import edit_lines
from discovery_haproxy.text.seal import is_sealed, unseal

_MOST_KEPT = 10
"""Edited files that are kept of each file: a program that edits the file all day must not fill the disk."""
_DIGEST_CHARACTERS = 8
"""Hexadecimal characters in the name of a kept file: the same edit, made again, has the same name."""


class ExternalFile:
    """Looks after the edits of a configuration file. Each method blocks; one method runs at a time."""

    def __init__(self, path: Path, state_dir: Path, log: FilteringBoundLogger) -> None:
        """Store the arguments. `state_dir` keeps a copy of the last text, from which the difference is shown."""
        self._path = path
        self._copy = state_dir / "written.cfg"
        self._log = log
        self._looked_at: tuple[int, int, int] | None = None
        self._detail: str | None = None
        self._told: set[bytes] = set()

    def edit(self) -> str | None:
        """Return a line for a person if the file is not as discovery wrote the file; else None. Log a new edit."""
        try:
            state = self._path.stat()
            stamp = (state.st_ino, state.st_size, state.st_ctime_ns)
            if stamp != self._looked_at:
                content = read(self._path)
                self._looked_at, self._detail = stamp, self._describe(content)
        except (OSError, ApplyError):
            self._looked_at = self._detail = None
        return self._detail

    def keep_edits(self, new_text: str, maps: Iterable[Path]) -> None:
        """Keep what a person has written into the file and its `maps`, which are about to be replaced.

        `new_text` is the text that replaces the file. Raises ApplyError if an edited file cannot be kept.
        """
        content = read(self._path)
        if is_foreign(content) and not original(self._path).exists():
            keep(self._path, content, original(self._path))
            self._log.info(f"{self._path} is discovery's from now on: the original is {original(self._path)}")
        elif is_edited(content) and not (is_foreign(content) and read(original(self._path)) == content):
            self._tell(content, new_text)
            self._keep_edited(self._path, content)
        for path in maps:
            entries = read(path)
            if is_foreign(entries) and not original(path).exists():
                keep(path, entries, original(path))
                continue
            is_own = belongs_to(path, _text(entries), _text(content)) or read(original(path)) == entries
            if entries.strip() and not is_own:
                self._keep_edited(path, entries)

    @property
    def as_written(self) -> Path:
        """Path of the last text that discovery wrote: the file, or its copy if a person has edited the file."""
        with suppress(ApplyError):
            content = read(self._path)
            if is_edited(content) and not is_foreign(content) and self._before(content) is not None:
                return self._copy
        return self._path

    def remember(self) -> None:
        """Copy the file, which discovery has just written, for the difference to a later edit."""
        temporary = self._copy.with_suffix(".new")
        try:
            self._copy.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            temporary.touch(0o600)
            # Without fsync, which would delay the next change: `_before` recognises a copy that is not whole.
            temporary.write_bytes(read(self._path))
            temporary.replace(self._copy)
        except (OSError, ApplyError) as error:
            # An edit will be noticed all the same.
            self._log.debug("no copy of the configuration was made", reason=str(error))

    def _describe(self, content: bytes) -> str | None:
        if not is_edited(content):
            return None
        if is_foreign(content):
            return f"{self._path} was not written by discovery"
        self._tell(content, None)
        return (
            f"{self._path} is not as discovery wrote the file: the next change of the registry replaces the file, and"
            f" keeps the edited one as {self._edited(self._path, content).name}"
        )

    def _tell(self, content: bytes, new_text: str | None) -> None:
        """Log an edit, once. Without a copy of the text before, the difference is that to `new_text`."""
        digest = hashlib.sha256(content).digest()
        before, text = self._before(content), content.decode(errors="replace")
        if digest in self._told or (before is None and new_text is None):
            return
        self._told.add(digest)
        edited = f"{self._path} was edited by another than discovery"
        if before is not None:
            self._log.warning(f"{edited}, as follows")
            lines = edit_lines(before.decode(errors="replace"), text)
        else:
            self._log.warning(f"{edited}; the next configuration of discovery differs as follows")
            lines = edit_lines(unseal(text), new_text or "")
        for line in lines:
            self._log.warning(f"{self._path.name}: {line}")

    def _before(self, content: bytes) -> bytes | None:
        """Return the text that discovery wrote and that was edited; None if there is no copy of that text."""
        with suppress(ApplyError):
            copy = read(self._copy)
            if is_sealed(_text(copy)) and copy.partition(b"\n")[0] in content.split(b"\n"):
                return copy
        return None

    def _keep_edited(self, path: Path, content: bytes) -> None:
        copy = self._edited(path, content)
        if not copy.exists():
            keep(path, content, copy)
            self._log.warning(f"{path} was edited by another than discovery: the edited file is kept as {copy}")
            self._remove_oldest(path)

    def _remove_oldest(self, path: Path) -> None:
        names = re.compile(re.escape(f"{path.name}.edited-") + f"[0-9a-f]{{{_DIGEST_CHARACTERS}}}")
        try:
            copies = [each for each in path.parent.iterdir() if names.fullmatch(each.name)]
            copies.sort(key=lambda copy: copy.stat().st_ctime_ns)
            for copy in copies[:-_MOST_KEPT]:
                copy.unlink()
                self._log.info(f"of the edited files of {path} the newest {_MOST_KEPT} stay: {copy.name} is removed")
        except OSError as error:
            self._log.debug("an edited file that was kept cannot be removed", reason=str(error))

    def _edited(self, path: Path, content: bytes) -> Path:
        digest = hashlib.sha256(content).hexdigest()[:_DIGEST_CHARACTERS]
        return path.with_name(f"{path.name}.edited-{digest}")


def is_edited(content: bytes) -> bool:
    """Return True if discovery did not write exactly this content. A file without any text is not edited."""
    return bool(content.strip()) and not is_sealed(_text(content))


def _text(content: bytes) -> str:
    return content.decode(errors="surrogateescape")
