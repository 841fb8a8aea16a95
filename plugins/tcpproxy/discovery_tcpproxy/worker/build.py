"""Build identifier of the worker: a daemon sends commands only to workers with the identifier of its own code."""

import sys
from importlib.util import source_hash
from pathlib import Path


def build() -> str:
    """Return an identifier of the worker's modules, in their present version on disk, and of the Python version."""
    here = Path(__file__).parent
    source = b"".join(path.read_bytes() for path in (*sorted(here.glob("*.py")), here.parent / "wire.py"))
    return f"{sys.version.partition(' ')[0]}-{source_hash(source).hex()}"
