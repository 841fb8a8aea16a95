"""The open descriptors of the process that tests."""

import gc
from pathlib import Path


def open_descriptors() -> set[str]:
    """Their numbers, without those of objects that nothing refers to any more.

    The garbage collector destroys what an earlier test has left, and closes its descriptors, at a moment of its own.
    """
    gc.collect()
    return {place.name for place in Path("/proc/self/fd").iterdir()}
