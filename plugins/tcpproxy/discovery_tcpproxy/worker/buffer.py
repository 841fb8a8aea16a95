"""Read buffer of a worker, shared by all of its connections."""

_SIZE = 1 << 18
"""Bytes of one read: smaller reads need more system calls, larger reads exceed the cache of the processor."""
_SMALL = 1 << 14
"""Bytes of one read while `_MUCH` is exceeded, so that slow readers add little memory each."""
_MUCH = 1 << 26
"""Bytes kept for all slow readers together above which reads become small: 64 MiB of memory."""


class ReadBuffer:
    """Memory into which all connections of a process read, and the number of bytes kept for slow readers."""

    def __init__(self) -> None:
        """Allocate the buffer."""
        self.view = memoryview(bytearray(_SIZE))
        self.size = _SIZE
        self.into = (self.view,)
        self.kept = 0

    def add_kept(self, count: int) -> None:
        """Add to the number of bytes kept for slow readers; a negative count subtracts."""
        self.kept += count
        size = _SMALL if self.kept > _MUCH else _SIZE
        if size != self.size:
            self.size = size
            self.into = (self.view[:size],)
