"""The built-in templates as they were compiled: kept where Python keeps its own modules, and trusted as those are."""

import hashlib
import sys
from contextlib import suppress
from importlib.util import cache_from_source
from pathlib import Path

import jinja2
from jinja2 import bccache, compiler

from discovery.toolkit import write_atomically
from discovery_haproxy import quoting


class Compiled(jinja2.BytecodeCache):
    """Spares each start to compile the templates of one directory; those of others are compiled, and not kept."""

    def __init__(self, directory: Path, by: str) -> None:
        """`by` is the file of the module that says how they are compiled."""
        self._directory = directory
        self._compiler = b""
        with suppress(OSError):  # an executable with a Python inside has no files, and nothing is kept
            # What is known when a template is compiled is within it, quoted. As Python does, by how the sources look.
            looks = [(state.st_size, state.st_mtime_ns) for state in map(Path.stat, map(Path, _sources(by)))]
            self._compiler = repr((str(directory), looks)).encode()

    def get_cache_key(self, name: str, filename: str | None = None) -> str:
        """Where it is kept; '' if it is not."""
        own = self._compiler and filename is not None and Path(filename).parent == self._directory
        return cache_from_source(str(filename)) if own else ""

    def get_source_checksum(self, source: str) -> str:
        """What has to be the same."""
        return hashlib.sha256(self._compiler + source.encode()).hexdigest()

    def load_bytecode(self, bucket: bccache.Bucket) -> None:
        """Take what is kept, if it is of this source, compiler and version of Python."""
        if bucket.key:
            with suppress(Exception):  # what is damaged is as good as missing
                bucket.bytecode_from_string(Path(bucket.key).read_bytes())

    def dump_bytecode(self, bucket: bccache.Bucket) -> None:
        """Keep it, where that is possible."""
        if bucket.key and not sys.dont_write_bytecode:
            with suppress(OSError):
                Path(bucket.key).parent.mkdir(parents=True, exist_ok=True)
                write_atomically(Path(bucket.key), bucket.bytecode_to_string())


def _sources(by: str) -> tuple[str, ...]:
    return by, quoting.__file__, compiler.__file__
