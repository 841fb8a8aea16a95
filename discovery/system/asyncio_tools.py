"""Waiting with a timeout, ending tasks, work on threads, and telling whose cancellation an exception is."""

import asyncio
import threading
from collections.abc import Callable, Collection
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

T = TypeVar("T")


async def wait_for_event(event: asyncio.Event, timeout: float | None) -> bool:
    """Wait until `event` is set, for at most `timeout` seconds; None waits without a limit. Return True if it was set.

    The timeout also holds in a task that is being cancelled, where `asyncio.timeout` of Python 3.11.2 raises no
    TimeoutError; and a cancellation that arrives together with the event is not lost, as `asyncio.wait_for` loses it.
    """
    waiting = asyncio.ensure_future(event.wait())
    try:
        await asyncio.wait({waiting}, timeout=timeout)
    finally:
        waiting.cancel()
    # The event may be cleared again before this task runs.
    return event.is_set() or (waiting.done() and not waiting.cancelled())


async def wait_for_tasks(tasks: "Collection[asyncio.Future[Any]]", timeout: float | None = None) -> bool:
    """Wait until all of `tasks` have ended, for at most `timeout` seconds; None waits without a limit.

    Returns False if a task still runs. Results and exceptions stay in the tasks; a cancellation of the caller does not
    reach the tasks.
    """
    return not tasks or not (await asyncio.wait(tasks, timeout=timeout))[1]


async def cancel_and_wait(*tasks: "asyncio.Future[Any]", timeout: float | None = None) -> bool:
    """Cancel `tasks` and wait until all have ended, for at most `timeout` seconds; None waits without a limit.

    Returns False if a task still runs. Exceptions of the tasks are not raised.
    """
    for task in tasks:
        task.cancel()
    return await wait_for_tasks(tasks, timeout)


async def on_thread(function: Callable[[], T], name: str) -> T:
    """Return the result of `function`, run on a thread called `name`; raise what it raises.

    Neither a cancellation nor the end of the process waits for the thread, as both wait for `asyncio.to_thread`.
    """
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[T] = loop.create_future()

    def run() -> None:
        try:
            settle = partial(answer.set_result, function())
        except BaseException as error:  # noqa: BLE001 - raised where the result is awaited
            settle = partial(answer.set_exception, error)
        with suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(lambda: None if answer.done() else settle())

    threading.Thread(target=run, name=name, daemon=True).start()
    return await answer


def is_being_cancelled() -> bool:
    """Return True if the current task is being cancelled.

    A CancelledError alone is no sign of that: a library or a plugin raises the same exception when only its own call
    was cancelled.
    """
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
