"""The memory into which a worker reads, shared by all of its connections."""

_SIZE = 1 << 18
"""Bytes read at once: more calls cost more, more bytes fall out of the processor's cache."""
_SMALL = 1 << 14
"""The same while much is kept."""
_MUCH = 1 << 26
"""Bytes kept for all slow readers together, above which reads become small."""


class Buffer:
    """The memory into which all connections of a process read, and the number of bytes kept for slow readers."""

    def __init__(self) -> None:
        """Nothing is kept yet."""
        self.view = memoryview(bytearray(_SIZE))
        self.size = _SIZE
        self.into = (self.view,)
        self.kept = 0

    def keep(self, count: int) -> None:
        """Count bytes that are kept, or no longer (negative)."""
        self.kept += count
        size = _SMALL if self.kept > _MUCH else _SIZE
        if size != self.size:
            self.size = size
            self.into = (self.view[:size],)
