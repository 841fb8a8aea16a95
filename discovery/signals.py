"""SIGINT and SIGTERM: the first asks for the end in order, a later one ends the process at once."""

import asyncio
import os
import signal
import time
from collections.abc import Callable
from types import FrameType

ONE_REQUEST = 0.5
"""Seconds. timeout(1), or a terminal and a supervisor that passes its Ctrl-C on, send two signals for one request."""

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def on_stop(stop: Callable[[signal.Signals], None]) -> None:
    """Call `stop`, on the running loop, with the first such signal; what follows within ONE_REQUEST is the same one."""
    loop = asyncio.get_running_loop()
    asked: float | None = None

    def handle(number: signal.Signals) -> None:
        nonlocal asked
        if asked is None:
            asked = time.monotonic()
            for each in _SIGNALS:
                loop.remove_signal_handler(each)
                signal.signal(each, again)  # also when the loop is closed, and the end all but reached
            loop.call_later(ONE_REQUEST, _let_the_next_end_us)
            stop(number)

    def again(number: int, _: FrameType | None) -> None:
        if asked is not None and time.monotonic() - asked >= ONE_REQUEST:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    for each in _SIGNALS:
        loop.add_signal_handler(each, handle, each)


def _let_the_next_end_us() -> None:
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_DFL)
