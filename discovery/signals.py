"""SIGINT and SIGTERM: the first asks for the end in order, a later one ends the process at once."""

import asyncio
import signal
from collections.abc import Callable

ONE_REQUEST = 0.5
"""Seconds. timeout(1), or a terminal and a supervisor that passes its Ctrl-C on, send two signals for one request."""

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def on_stop(stop: Callable[[signal.Signals], None]) -> None:
    """Call `stop`, on the running loop, with the first such signal; what follows within ONE_REQUEST is the same one."""
    loop = asyncio.get_running_loop()
    asked = False

    def handle(number: signal.Signals) -> None:
        nonlocal asked
        if not asked:
            asked = True
            loop.call_later(ONE_REQUEST, _let_the_next_end_us, loop)
            stop(number)

    for each in _SIGNALS:
        loop.add_signal_handler(each, handle, each)


def _let_the_next_end_us(loop: asyncio.AbstractEventLoop) -> None:
    for number in _SIGNALS:
        loop.remove_signal_handler(number)
        signal.signal(number, signal.SIG_DFL)
