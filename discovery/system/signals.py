"""SIGINT and SIGTERM: the first asks for the end in order, a later one ends the process at once. SIGHUP: a reload.

No handler is the event loop's own: the event loop closes its wakeup descriptor before it removes its handlers, and a
signal in between shows a traceback.
"""

import asyncio
import atexit
import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from types import FrameType

ONE_REQUEST = 0.5
"""Seconds. timeout(1), or a terminal and a supervisor that passes its Ctrl-C on, send two signals for one request."""

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def on_stop(stop: Callable[[signal.Signals], None]) -> None:
    """Call `stop`, on the running loop, with the first such signal; what follows within ONE_REQUEST is the same one.

    The handlers are not the event loop's: between their removal and others in their place a signal would end the
    process, and so it would while the interpreter ends.
    """
    loop = asyncio.get_running_loop()
    asked: float | None = None

    def handle(number: int, _: FrameType | None) -> None:
        nonlocal asked
        if asked is None:
            asked = time.monotonic()
            atexit.register(ignore_the_same)
            with suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(begin, signal.Signals(number))
        elif not is_the_same():
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    def is_the_same() -> bool:
        return asked is not None and time.monotonic() - asked < ONE_REQUEST

    def begin(number: signal.Signals) -> None:
        loop.call_later(ONE_REQUEST, _let_the_next_end_us)
        stop(number)

    def ignore_the_same() -> None:
        if is_the_same():
            for each in _SIGNALS:
                signal.signal(each, signal.SIG_IGN)

    for each in _SIGNALS:
        signal.signal(each, handle)


def on_hangup(reload: Callable[[], None]) -> None:
    """Call `reload` on the running loop with each SIGHUP, which has no effect once the loop has ended."""
    loop = asyncio.get_running_loop()

    def handle(_: int, __: FrameType | None) -> None:
        with suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(reload)

    signal.signal(signal.SIGHUP, handle)


def _let_the_next_end_us() -> None:
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_DFL)
