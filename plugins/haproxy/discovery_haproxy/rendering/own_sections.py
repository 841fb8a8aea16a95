"""Names of the user's own sections: no service that the registry alone has named gets a section of such a name.

HAProxy refuses a configuration in which two sections have one name, and with it every service.
"""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from discovery_haproxy.options.config import HAProxyConfig
from discovery_haproxy.rendering.includes import included_files
from discovery_haproxy.rendering.incremental import Memo
from discovery_haproxy.text.neighbours import Neighbours, defined_sections

_IN_OPTIONS = "the option 'sections'"
"""Place of a section for people."""


class OwnSections:
    """Finds the sections with a backend's name in the user's own files, which are read again when they change."""

    def __init__(self) -> None:
        """Begin without a file."""
        self._found = Memo[Mapping[str, str]]()

    def places(self, config: HAProxyConfig, digests: Mapping[Path, str], neighbours: Neighbours) -> Mapping[str, str]:
        """Return the place of each such section, for people, by the name. Equal arguments give the same object.

        `digests` are those of the files of `include`, `neighbours` are the files beside a fragment. A file that cannot
        be read has no section: the rendering tells.
        """
        files = tuple((path, digests.get(path, "")) for path in config.include)
        return self._found.value((tuple(config.sections), files, neighbours.defined), _places)


def _places(
    headers: tuple[str, ...], files: tuple[tuple[Path, str], ...], defined: Mapping[str, str]
) -> Mapping[str, str]:
    options = {header.split()[1]: _IN_OPTIONS for header in headers if header.startswith("backend ")}
    return {**defined_sections(_texts(path for path, _ in files)), **options, **defined}


def _texts(paths: Iterator[Path]) -> Iterator[tuple[Path, str]]:
    for path in paths:
        with suppress(OSError):
            for file in included_files(path):
                yield file, file.read_text(errors="surrogateescape")
