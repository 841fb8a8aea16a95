"""One request to stop may arrive as several signals; only a later one forces the end."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

from discovery.system.signals import on_hangup, on_stop
from discovery.testing import eventually, within


def test_signals_that_come_together_are_one_request_and_a_later_one_is_left_to_the_system() -> None:
    seen = []

    def stop(number: signal.Signals) -> None:
        seen.append(number)
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)

    async def run() -> None:
        on_stop(stop)
        os.kill(os.getpid(), signal.SIGTERM)
        await eventually(lambda: {signal.getsignal(number) for number in before} == {signal.SIG_DFL})

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        asyncio.run(run())
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert seen == [signal.SIGTERM]


def test_the_tests_run_alike_however_they_are_started() -> None:
    """Point 31. Under nohup, and in the background of a shell, SIGHUP and SIGINT are ignored."""
    tests = Path(__file__).parents[2]
    name = f"{Path(__file__).relative_to(tests)}::test_nothing_is_ignored_that_a_test_sends"
    pytest = f"exec {sys.executable} -m pytest -q -p no:cacheprovider {name}"
    command = ["sh", "-c", f"trap '' HUP INT QUIT; {pytest}"]
    done = subprocess.run(command, cwd=tests, capture_output=True, text=True, timeout=within(300), check=False)
    assert done.returncode == 0, done.stdout


def test_nothing_is_ignored_that_a_test_sends() -> None:
    """Point 31."""
    sent = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
    assert [number for number in sent if signal.getsignal(number) is signal.SIG_IGN] == []


def test_one_that_comes_when_the_end_is_reached_already_is_the_same_request() -> None:
    program = """
import asyncio, os, signal
from discovery.system.signals import on_hangup, on_stop

async def run():
    asked = asyncio.Event()
    on_stop(lambda _: asked.set())
    os.kill(os.getpid(), signal.SIGTERM)
    await asked.wait()

asyncio.run(run())
os.kill(os.getpid(), signal.SIGINT)
os.kill(os.getpid(), signal.SIGTERM)
"""
    assert subprocess.run([sys.executable, "-c", program], timeout=within(60), check=False).returncode == 0


def test_no_signal_is_the_event_loops_which_shows_a_traceback_while_it_closes() -> None:
    seen = []

    async def run() -> None:
        on_stop(lambda _: None)
        on_hangup(lambda: seen.append(signal.SIGHUP))
        wakeup = signal.set_wakeup_fd(-1)
        assert wakeup == -1
        os.kill(os.getpid(), signal.SIGHUP)
        await eventually(lambda: seen == [signal.SIGHUP])

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        asyncio.run(run())
        os.kill(os.getpid(), signal.SIGHUP)  # the loop has ended
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert seen == [signal.SIGHUP]
