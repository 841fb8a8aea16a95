"""How a process that a signal has ended is told of, whatever the signal."""

import signal
import sys

import pytest

from discovery.errors import ApplyError
from discovery.system.runcommand import check_command, end_of, signal_name
from discovery.testing import within

KILLS_ITSELF = "import os, sys; os.kill(os.getpid(), int(sys.argv[1]))"


@pytest.mark.parametrize(
    ("number", "name"),
    [
        (signal.SIGTERM, "SIGTERM"),
        (signal.SIGRTMIN, "SIGRTMIN"),
        (signal.SIGRTMIN + 2, "SIGRTMIN+2"),
        (signal.SIGRTMAX, "SIGRTMAX"),
        (32, "signal 32"),
    ],
)
async def test_each_signal_has_a_name(number: int, name: str) -> None:
    assert signal_name(number) == name
    assert end_of(-number) == f"killed by {name}"


async def test_a_command_that_a_real_time_signal_ends_is_told_of() -> None:
    number = signal.SIGRTMIN + 3
    with pytest.raises(ApplyError, match=r"it fails: .*: killed by SIGRTMIN\+3$"):
        await check_command((sys.executable, "-c", KILLS_ITSELF, str(number)), within(30), "it fails")
