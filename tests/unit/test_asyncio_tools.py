"""Waiting with a timeout, ending tasks, work on threads, and telling whose cancellation an exception is."""

import asyncio
import threading
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

import pytest

from discovery.system.asyncio_tools import (
    cancel_and_wait,
    is_being_cancelled,
    on_thread,
    wait_for_event,
    wait_for_tasks,
)
from discovery.testing import eventually


async def in_a_cancelled_task(work: Coroutine[Any, Any, bool]) -> bool:
    """Return what `work` returns when awaited by a task that cleans up after its cancellation."""
    begun = asyncio.Event()

    async def main() -> bool:
        try:
            begun.set()
            await asyncio.Event().wait()
        finally:
            return await work  # noqa: B012 - the test wants the result, not the cancellation

    task = asyncio.create_task(main())
    await begun.wait()
    task.cancel()
    return await task


async def stubborn(release: asyncio.Event) -> None:
    """Run until `release` is set, whoever cancels."""
    while not release.is_set():
        with suppress(asyncio.CancelledError):
            await release.wait()


class TestWaitForEvent:
    async def test_an_event_that_is_set_in_time(self) -> None:
        event = asyncio.Event()
        asyncio.get_running_loop().call_later(0.01, event.set)
        assert await wait_for_event(event, 30)
        assert await wait_for_event(event, 0)

    async def test_an_event_that_is_set_and_cleared_at_once(self) -> None:
        event = asyncio.Event()
        waiting = asyncio.create_task(wait_for_event(event, 30))
        await asyncio.sleep(0)  # the task begins
        await asyncio.sleep(0)  # its inner task waits for the event
        event.set()
        event.clear()
        assert await waiting

    async def test_a_timeout_returns_false_and_leaves_no_task(self) -> None:
        assert not await wait_for_event(asyncio.Event(), 0.01)
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    async def test_the_timeout_holds_in_a_task_that_is_being_cancelled(self) -> None:
        assert not await in_a_cancelled_task(wait_for_event(asyncio.Event(), 0.01))

    async def test_a_cancellation_at_the_moment_of_the_event_is_not_lost(self) -> None:
        event = asyncio.Event()
        task = asyncio.create_task(wait_for_event(event, 30))
        await asyncio.sleep(0)
        event.set()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


class TestTasks:
    async def test_no_task_has_ended(self) -> None:
        assert await wait_for_tasks(())

    async def test_a_task_that_fails_has_ended_and_raises_nothing_here(self) -> None:
        async def fail() -> None:
            raise ValueError

        task = asyncio.create_task(fail())
        assert await wait_for_tasks([task])
        assert isinstance(task.exception(), ValueError)

    async def test_a_cancelled_task_ends_and_one_that_does_not_is_reported(self) -> None:
        release = asyncio.Event()
        task, other = asyncio.create_task(stubborn(release)), asyncio.create_task(asyncio.sleep(60))
        await asyncio.sleep(0)
        assert not await cancel_and_wait(task, other, timeout=0.01)
        assert other.cancelled()
        release.set()
        assert await cancel_and_wait(task, timeout=30)


class TestWhoseCancellation:
    async def test_that_of_the_task(self) -> None:
        async def ask() -> bool:
            return is_being_cancelled()

        assert await in_a_cancelled_task(ask())

    async def test_that_of_a_call_alone(self) -> None:
        call = asyncio.get_running_loop().create_future()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert not is_being_cancelled()


class TestOnThread:
    async def test_the_result_and_the_exception_are_those_of_the_function(self) -> None:
        assert await on_thread(lambda: threading.current_thread().name, "aside") == "aside"
        with pytest.raises(ZeroDivisionError):
            await on_thread(lambda: 1 / 0, "aside")

    async def test_a_cancellation_does_not_wait_for_the_function(self) -> None:
        begun, release = threading.Event(), threading.Event()

        def block() -> None:
            begun.set()
            release.wait()

        task = asyncio.create_task(on_thread(block, "blocks"))
        await eventually(begun.is_set)
        assert await cancel_and_wait(task, timeout=30)
        assert task.cancelled()
        release.set()
        await eventually(lambda: "blocks" not in [each.name for each in threading.enumerate()])
