"""The event by which the core wakes the thread of a plugin."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from descriptors import open_descriptors

from discovery.hosting.wake import Wake
from discovery.testing import within


@asynccontextmanager
async def opened() -> AsyncIterator[Wake]:
    """Open an event on the running loop."""
    wake = Wake()
    wake.open()
    try:
        yield wake
    finally:
        wake.close()


async def test_a_thread_wakes_the_task_that_waits() -> None:
    async with opened() as wake:
        waiting = asyncio.create_task(wake.wait(within(10)))
        await asyncio.sleep(0)
        threading.Thread(target=wake.set).start()
        assert await waiting


async def test_what_is_set_several_times_wakes_once_and_the_next_wait_at_once() -> None:
    async with opened() as wake:
        for _ in range(1000):
            wake.set()
        assert await wake.wait(within(10))
        assert not await wake.wait(0.01)
        wake.set()
        await asyncio.sleep(0.01)  # it arrives while nobody waits
        assert await wake.wait(within(10))


async def test_a_wait_ends_with_its_time_and_with_its_task() -> None:
    async with opened() as wake:
        assert not await wake.wait(-1)
        waiting = asyncio.create_task(wake.wait(within(10)))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        wake.set()
        assert await wake.wait(within(10))


async def test_what_is_set_before_the_beginning_or_after_the_end_reaches_nobody() -> None:
    before = open_descriptors()
    wake = Wake()
    wake.set()
    wake.open()
    assert not await wake.wait(0.01)
    wake.close()
    wake.set()
    wake.close()
    assert open_descriptors() == before
