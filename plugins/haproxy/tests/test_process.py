"""Hold on a process that may not be a child."""

import asyncio
import subprocess
from contextlib import suppress

from discovery.testing import within
from discovery_haproxy.process import Handle


def test_the_wait_for_a_process_ends_in_time_while_its_task_is_cancelled() -> None:
    """Point 29. With the timeouts of Python 3.11.2 it raised CancelledError, so that a HAProxy was left behind."""
    outcomes: list[bool] = []

    async def clean_up(handle: Handle) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            outcomes.append(await handle.wait(0.01))

    async def scenario() -> None:
        handle = Handle(process.pid)
        task = asyncio.create_task(clean_up(handle))
        await asyncio.sleep(0)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        process.kill()
        assert await handle.wait(within(30))
        handle.close()

    with subprocess.Popen(["sleep", "600"]) as process:
        asyncio.run(scenario())
    assert outcomes == [False]
