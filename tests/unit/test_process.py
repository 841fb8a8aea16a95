"""Handles of processes."""

import asyncio
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

from discovery.system.process import ProcessHandle
from discovery.testing import within


def test_a_child_is_signalled_awaited_and_reaped() -> None:
    async def scenario(process: "subprocess.Popen[bytes]") -> None:
        with ProcessHandle(process.pid, on_exit=process.wait) as handle:
            assert handle.alive
            assert not await handle.wait(0.01)
            handle.send_signal(signal.SIGTERM)
            assert await handle.wait(within(30))
            assert process.returncode == -signal.SIGTERM
            assert not handle.alive
            handle.send_signal(signal.SIGTERM)  # does nothing

    with subprocess.Popen(["sleep", "600"]) as process:
        asyncio.run(scenario(process))


def test_a_closed_handle_leaves_the_process_as_it_is() -> None:
    async def scenario(pid: int) -> None:
        handle = ProcessHandle(pid, on_exit=lambda: pytest.fail("the process has not ended"))
        waiting = asyncio.create_task(handle.wait())
        await asyncio.sleep(0)
        handle.close()
        handle.close()
        handle.send_signal(signal.SIGKILL)
        assert await waiting

    with subprocess.Popen(["sleep", "600"]) as process:
        asyncio.run(scenario(process.pid))
        assert process.poll() is None
        process.kill()


def test_a_later_process_with_the_same_id_has_no_handle() -> None:
    async def scenario(pid: int, started: int) -> None:
        ProcessHandle(pid, started=started).close()
        with pytest.raises(ProcessLookupError):
            ProcessHandle(pid, started=started + 1)

    with subprocess.Popen(["sleep", "600"]) as process:
        started = int(Path(f"/proc/{process.pid}/stat").read_text().rpartition(") ")[2].split()[19])
        descriptors = len(list(Path("/proc/self/fd").iterdir()))
        asyncio.run(scenario(process.pid, started))
        assert len(list(Path("/proc/self/fd").iterdir())) == descriptors
        process.kill()
    with pytest.raises(ProcessLookupError):
        asyncio.run(scenario(process.pid, started))


def test_the_wait_for_a_process_ends_in_time_while_its_task_is_cancelled() -> None:
    """Point 29. With the timeouts of Python 3.11.2 it raised CancelledError, so that a HAProxy was left behind."""
    outcomes: list[bool] = []

    async def clean_up(handle: ProcessHandle) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            outcomes.append(await handle.wait(0.01))

    async def scenario(pid: int) -> None:
        with ProcessHandle(pid) as handle:
            task = asyncio.create_task(clean_up(handle))
            await asyncio.sleep(0)
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    with subprocess.Popen(["sleep", "600"]) as process:
        asyncio.run(scenario(process.pid))
        process.kill()
    assert outcomes == [False]
