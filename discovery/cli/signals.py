"""SIGINT and SIGTERM end a command in order: what it runs is cancelled, cleans up, and that is a success."""

import asyncio
from collections.abc import Coroutine
from typing import Any

from discovery.signals import on_stop


def run_until_signal(work: Coroutine[Any, Any, None]) -> None:
    """Run `work` until it ends, or until the first SIGINT or SIGTERM; a later one ends the process at once."""
    asyncio.run(_supervise(work))


async def _supervise(work: Coroutine[Any, Any, None]) -> None:
    task = asyncio.create_task(work)

    def stop(_: object) -> None:
        task.cancel()

    on_stop(stop)
    await asyncio.wait({task})
    if not task.cancelled():
        task.result()
