"""SIGINT ends a command at once while modules load, and in order once the command works."""

import os
import signal
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, TypeVar

T = TypeVar("T")

INTERRUPTED = 130
"""The exit code of a command that SIGINT has ended: 128 and the number of the signal, as shells count."""


@contextmanager
def interrupts_handled() -> Iterator[None]:
    """Have SIGINT end the process at once while a module loads, and raise KeyboardInterrupt at any other time.

    A module that loads may swallow the exception, or turn the exception into an error of its own. Nothing changes on
    any thread but the main thread, nor where the process handles SIGINT already.
    """
    main_thread = threading.current_thread() is threading.main_thread()
    if not main_thread or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, _interrupt)
    try:
        yield
    finally:
        restore_interrupts()


def run_coroutine(work: Coroutine[Any, Any, T]) -> T:
    """Run `work` on a new event loop and return its result. SIGINT cancels `work` and raises KeyboardInterrupt."""
    import asyncio  # here: many commands need no event loop

    restore_interrupts()
    return asyncio.run(work)


def restore_interrupts() -> None:
    """Have SIGINT raise KeyboardInterrupt at any time: `asyncio.run` handles SIGINT only in place of that handler."""
    if signal.getsignal(signal.SIGINT) is _interrupt:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _interrupt(_: int, frame: FrameType | None) -> None:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            os._exit(INTERRUPTED)
        frame = frame.f_back
    raise KeyboardInterrupt
