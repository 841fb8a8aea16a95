"""Which code a worker runs: one of other code is not told what to do, as it may not understand it."""

import sys
from importlib.util import source_hash
from pathlib import Path


def build() -> str:
    """The same for equal code on an equal Python: of the worker's modules as they are on the disk now."""
    here = Path(__file__).parent
    source = b"".join(path.read_bytes() for path in (*sorted(here.glob("*.py")), here.parent / "wire.py"))
    return f"{sys.version.partition(' ')[0]}-{source_hash(source).hex()}"
