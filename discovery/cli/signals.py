"""SIGINT and SIGTERM end a command in order: what it runs is cancelled, cleans up, and that is a success."""

import asyncio
import signal
from collections.abc import Coroutine
from typing import Any


def run_until_signal(work: Coroutine[Any, Any, None]) -> None:
    """Run `work` until it ends, or until the first SIGINT or SIGTERM; a second one ends the process at once."""
    asyncio.run(_supervise(work))


async def _supervise(work: Coroutine[Any, Any, None]) -> None:
    loop = asyncio.get_running_loop()
    task = asyncio.create_task(work)

    def stop() -> None:
        loop.remove_signal_handler(signal.SIGINT)
        loop.remove_signal_handler(signal.SIGTERM)
        task.cancel()

    loop.add_signal_handler(signal.SIGINT, stop)
    loop.add_signal_handler(signal.SIGTERM, stop)
    await asyncio.wait({task})
    if not task.cancelled():
        task.result()
