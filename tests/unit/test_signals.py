"""One request to stop may arrive as several signals; only a later one forces the end."""

import asyncio
import os
import signal

from discovery.signals import on_stop
from discovery.testing import eventually


def test_signals_that_come_together_are_one_request_and_a_later_one_is_left_to_the_system() -> None:
    seen = []

    def stop(number: signal.Signals) -> None:
        seen.append(number)
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)

    async def run() -> None:
        on_stop(stop)
        os.kill(os.getpid(), signal.SIGTERM)
        await eventually(lambda: {signal.getsignal(number) for number in before} == {signal.SIG_DFL})

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        asyncio.run(run())
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert seen == [signal.SIGTERM]
