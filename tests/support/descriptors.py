"""The open descriptors of the process that tests, and which of them have something to read."""

import gc
import selectors
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar, cast

T = TypeVar("T", int, socket.socket)


def open_descriptors() -> set[str]:
    """Their numbers, without those of objects that nothing refers to any more.

    The garbage collector destroys what an earlier test has left, and closes its descriptors, at a moment of its own.
    """
    gc.collect()
    return {place.name for place in Path("/proc/self/fd").iterdir()}


def readable(sources: Iterable[T], seconds: float) -> list[T]:
    """Return which of these have something to read, or have ended, within so many seconds.

    `select.select` refuses descriptors from 1024 on, which a process that runs thousands of tests may have.
    """
    with selectors.DefaultSelector() as selector:
        for each in sources:
            selector.register(each, selectors.EVENT_READ)
        return [cast("T", key.fileobj) for key, _ in selector.select(seconds)]
