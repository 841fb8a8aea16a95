"""The user's own files that stand in the configuration, as they are, below everything else.

One file is checked, installed and loaded as a whole, so HAProxy never sees a new file beside an old one.
"""

from collections.abc import Iterator
from pathlib import Path

from discovery import ApplyError
from discovery_haproxy.rendering.parts import Part, Surroundings, makes_requests
from discovery_haproxy.text.chunks import split
from discovery_haproxy.text.inclusion import inclusion
from discovery_haproxy.text.words import SECTIONS, words

_SUFFIX = ".cfg"
"""Suffix of the files of a directory that count, as HAProxy has it."""
_RESERVED = frozenset({"description", "daemon", "master-worker"})
"""Directives of a `global` section with which the plugin cannot run HAProxy."""


def included_part(path: Path, _digest: str, surroundings: Surroundings) -> Part:
    """Return the part that an included file is, or the files of an included directory. Raises ApplyError."""
    text = "".join(inclusion(str(file), _read(file)) for file in included_files(path))
    return Part(split(text), makes_requests(text), surroundings.route_map in text)


def included_files(path: Path) -> Iterator[Path]:
    """Yield the files that `include` names by a path: the file, or the files of the directory. Raises OSError."""
    if not path.is_dir():
        yield path
        return
    for file in sorted(path.iterdir()):
        if file.name.endswith(_SUFFIX) and not file.name.startswith(".") and file.is_file():
            yield file


def _read(path: Path) -> str:
    try:
        text = path.read_text(errors="surrogateescape")
    except OSError as error:
        raise ApplyError(f"{path}, of 'include', cannot be read: {error.strerror}") from None
    section = ""
    for number, line in enumerate(text.splitlines(), start=1):
        keyword = "".join(words(line)[:1])
        if SECTIONS.fullmatch(keyword):
            section = keyword
        elif not section and keyword and not keyword.startswith("."):
            raise ApplyError(f"{path}, line {number}: {keyword!r} stands in no section, such as `frontend web`")
        elif section == "global" and keyword in _RESERVED:
            raise ApplyError(f"{path}, line {number}: {keyword!r} conflicts with a line that the plugin writes")
    return text
