"""A cache of the compiled built-in templates, kept and trusted like Python's own compiled modules."""

import hashlib
import secrets
import sys
from contextlib import suppress
from importlib.util import cache_from_source
from pathlib import Path

import jinja2
from jinja2 import bccache, compiler

from discovery_haproxy.rendering import quoting

_MODE = 0o644
"""Mode of a compiled template, whatever the umask: every user of the program may read the template as well."""


class TemplateCache(jinja2.BytecodeCache):
    """Caches the compiled templates of a directory. Templates of other directories are not cached."""

    def __init__(self, directory: Path, module_file: str) -> None:
        """Cache templates of `directory`. `module_file` is the module that configures the compiler."""
        self._directory = directory
        self._compiler = b""
        with suppress(OSError):  # an executable with Python inside has no module files, and nothing is cached
            # A compiled template contains values of these modules. Size and time of change tell versions apart, as for
            # Python's own compiled modules.
            stamps = [(state.st_size, state.st_mtime_ns) for state in map(Path.stat, map(Path, _sources(module_file)))]
            self._compiler = repr((str(directory), stamps)).encode()

    def get_cache_key(self, name: str, filename: str | None = None) -> str:
        """Return the path of the cached template; '' if the template is not cached."""
        cached = self._compiler and filename is not None and Path(filename).parent == self._directory
        return cache_from_source(str(filename)) if cached else ""

    def get_source_checksum(self, source: str) -> str:
        """Return a checksum of the template's source and of the compiler's configuration."""
        return hashlib.sha256(self._compiler + source.encode()).hexdigest()

    def load_bytecode(self, bucket: bccache.Bucket) -> None:
        """Load the cached template, if source, compiler and version of Python are the same."""
        if bucket.key:
            with suppress(Exception):  # a damaged file counts as missing
                bucket.bytecode_from_string(Path(bucket.key).read_bytes())

    def dump_bytecode(self, bucket: bccache.Bucket) -> None:
        """Write the compiled template, if the directory can be written to."""
        if bucket.key and not sys.dont_write_bytecode:
            with suppress(OSError):
                _write(Path(bucket.key), bucket.bytecode_to_string())


def _write(path: Path, data: bytes) -> None:
    """Write as Python writes its own compiled modules: whole, and without waiting for the disk. Raises OSError.

    Each path names `__pycache__`, by which whoever records what a plugin writes tells a cache from a state.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    try:
        with temporary.open("xb") as file:
            file.write(data)
        temporary.chmod(_MODE)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _sources(module_file: str) -> tuple[str, ...]:
    return module_file, quoting.__file__, compiler.__file__
