"""Handles of processes."""

import asyncio
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from descriptors import open_descriptors
from scarcity import run_scarce

from discovery.system.process import ProcessHandle
from discovery.testing import within

WITH_ONE_DESCRIPTOR_LEFT = """
import asyncio, errno, os, sys
from discovery.system.process import ProcessHandle
from scarcity import descriptors_left

async def main():
    ProcessHandle(os.getppid()).close()  # loads the modules that the handle needs with some builds of Python
    with descriptors_left(1):
        try:
            ProcessHandle(os.getppid(), started=int(sys.argv[1]))
        except OSError as error:
            os.close(os.dup(0))  # a handle that was not made keeps no descriptor
            print(errno.errorcode[error.errno])

asyncio.run(main())
"""

Child = subprocess.Popen[bytes]


@pytest.fixture
def child() -> Iterator[Child]:
    """A child process that runs until the end of the test."""
    with subprocess.Popen(["sleep", "600"]) as process:
        yield process
        process.kill()


async def test_a_child_is_signalled_awaited_and_reaped(child: Child) -> None:
    with ProcessHandle(child.pid, on_exit=child.wait) as handle:
        assert handle.alive
        assert not await handle.wait(0.01)
        handle.send_signal(signal.SIGTERM)
        assert await handle.wait(within(30))
        assert child.returncode == -signal.SIGTERM
        assert not handle.alive
        handle.send_signal(signal.SIGTERM)  # does nothing


async def test_a_closed_handle_leaves_the_process_as_it_is(child: Child) -> None:
    handle = ProcessHandle(child.pid, on_exit=lambda: pytest.fail("the process has not ended"))
    waiting = asyncio.create_task(handle.wait())
    await asyncio.sleep(0)
    handle.close()
    handle.close()
    handle.send_signal(signal.SIGKILL)
    assert await waiting
    assert child.poll() is None


async def test_a_later_process_with_the_same_id_has_no_handle(child: Child) -> None:
    started = int(Path(f"/proc/{child.pid}/stat").read_text().rpartition(") ")[2].split()[19])
    descriptors = open_descriptors()
    ProcessHandle(child.pid, started=started).close()
    with pytest.raises(ProcessLookupError):
        ProcessHandle(child.pid, started=started + 1)
    assert open_descriptors() == descriptors
    child.kill()
    child.wait()
    with pytest.raises(ProcessLookupError):
        ProcessHandle(child.pid, started=started)


def test_a_shortage_of_descriptors_is_not_the_end_of_a_process() -> None:
    started = Path("/proc/self/stat").read_text().rpartition(") ")[2].split()[19]
    assert run_scarce(WITH_ONE_DESCRIPTOR_LEFT, started) == "EMFILE\n"


async def test_the_wait_for_a_process_ends_in_time_while_its_task_is_cancelled(child: Child) -> None:
    """Point 29. With the timeouts of Python 3.11.2 it raised CancelledError, so that a HAProxy was left behind."""
    outcomes: list[bool] = []

    async def clean_up(handle: ProcessHandle) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            outcomes.append(await handle.wait(0.01))

    with ProcessHandle(child.pid) as handle:
        task = asyncio.create_task(clean_up(handle))
        await asyncio.sleep(0)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    assert outcomes == [False]
