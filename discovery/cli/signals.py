"""Ends a command in order at SIGINT or SIGTERM: its coroutine is cancelled and cleans up."""

import asyncio
import signal
from collections.abc import Coroutine
from typing import Any

from discovery.cli.interrupts import run_coroutine
from discovery.system.signals import on_stop


def run_until_signal(work: Coroutine[Any, Any, None]) -> signal.Signals | None:
    """Run `work` until its end, or cancel `work` at the first SIGINT or SIGTERM, and return that signal.

    A later signal forces the end.
    """
    return run_coroutine(_supervise(work))


async def _supervise(work: Coroutine[Any, Any, None]) -> signal.Signals | None:
    task = asyncio.create_task(work)
    stopped_by: signal.Signals | None = None

    def stop(number: signal.Signals) -> None:
        nonlocal stopped_by
        stopped_by = number
        task.cancel()

    on_stop(stop)
    await asyncio.wait({task})
    if not task.cancelled():
        task.result()
    return stopped_by
