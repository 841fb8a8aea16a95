"""What keeps a consumer from writing its file."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replaced_by_a_directory(file: Path) -> Iterator[None]:
    """Put a directory in the place of a file for a block."""
    contents = file.read_bytes()
    file.unlink()
    file.mkdir()
    yield
    file.rmdir()
    file.write_bytes(contents)
