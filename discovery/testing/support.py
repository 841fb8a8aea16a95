"""Helpers for tests: wait for a condition, find a free port, find a program or skip the test."""

import asyncio
import fcntl
import inspect
import os
import random
import socket
import tempfile
import time
from collections.abc import Awaitable, Callable
from functools import cache
from pathlib import Path
from typing import NoReturn, TypeVar

from discovery.errors import ConfigError
from discovery.system.embedded import PORTS, find_program, wheel_program

T = TypeVar("T")

_POLL = 0.02
"""Seconds between two evaluations of a condition: short beside a test, long beside an evaluation."""
_NOT_YET = (AssertionError, OSError, LookupError)
_given: set[int] = set()
_random = random.SystemRandom()  # hypothesis seeds other generators, so parallel tests would get equal ports


async def eventually(condition: Callable[[], T | Awaitable[T]], what: str = "", timeout: float = 10) -> T:
    """Poll `condition`, a function or a coroutine function, and return its first true result.

    AssertionError, OSError and LookupError of `condition` mean "not yet". Raises AssertionError after `timeout`
    seconds; the message has `what` was awaited and the last state of the condition. On a busy machine the environment
    variable DISCOVERY_TEST_PATIENCE multiplies the seconds.
    """
    timeout = within(timeout)
    deadline = time.monotonic() + timeout
    while True:
        outcome: object
        try:
            result = condition()
            outcome = value = (await result) if inspect.isawaitable(result) else result
            if value:
                return value
        except _NOT_YET as error:
            outcome = error
        if time.monotonic() > deadline:
            raise _too_late(condition, what, timeout, outcome)
        await asyncio.sleep(_POLL)


def eventually_sync(condition: Callable[[], T], what: str = "", timeout: float = 10) -> T:
    """Do as `eventually` does, on a thread without an event loop: poll `condition`, name `what`, limit by `timeout`."""
    timeout = within(timeout)
    deadline = time.monotonic() + timeout
    while True:
        outcome: object
        try:
            outcome = value = condition()
            if value:
                return value
        except _NOT_YET as error:
            outcome = error
        if time.monotonic() > deadline:
            raise _too_late(condition, what, timeout, outcome)
        time.sleep(_POLL)


def within(seconds: float) -> float:
    """Return the time limit, in seconds, for an operation that takes less than `seconds` on an idle machine.

    The environment variable DISCOVERY_TEST_PATIENCE multiplies the seconds. `eventually` multiplies by itself; every
    other wait that has a limit only because of faults takes the limit from here: `process.wait(within(20))`.
    """
    return seconds * float(os.environ.get("DISCOVERY_TEST_PATIENCE") or 1)


def _too_late(condition: object, what: str, timeout: float, outcome: object) -> AssertionError:
    what = what or getattr(condition, "__qualname__", repr(condition))
    error = AssertionError(f"waited {timeout:g} s in vain for {what}; last: {outcome!r}")
    error.__cause__ = outcome if isinstance(outcome, BaseException) else None
    return error


def free_port() -> int:
    """Return a TCP port on which nothing listens, on any address, and that no outgoing connection takes.

    The port is random, below those of an EmbeddedEtcd, and so below the range from which the kernel serves outgoing
    connections. No port is returned twice on this machine while processes that asked for a port run. From any thread.
    """
    for _ in range(1000):
        port = _random.randrange(10_240, PORTS.start)
        if port in _given or not _claim(port):
            continue
        with socket.socket() as probe:
            try:
                probe.bind(("", port))
            except OSError:
                continue
        _given.add(port)
        return port
    raise OSError(f"no free TCP port between 10240 and {PORTS.start - 1}")


def _claim(port: int) -> bool:
    """Lock the port's byte of a file that all tests of this user share, for as long as this process runs."""
    try:
        fcntl.lockf(_claims(), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
    except BlockingIOError:
        return False
    except OSError:
        return True  # the file system has no locks
    return True


@cache
def _claims() -> int:
    path = Path(tempfile.gettempdir(), f"discovery-test-ports-{os.getuid()}")
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)


def require_program(name: str, *, wheel: bool = True) -> Path:
    """Return the path of the program `name`: on PATH or in an sbin directory, or with `wheel` in an installed wheel.

    If the program is missing, the running pytest test is skipped with a reason, or fails if the environment variable CI
    is set.
    """
    try:
        found = find_program(name)
        if wheel or found != wheel_program(name):
            return found
        reason = f"the program {name!r} is not on PATH, and this test cannot use the program of an installed wheel"
    except ConfigError as error:
        reason = str(error)
    return cannot_run(reason)


def cannot_run(reason: str) -> NoReturn:
    """Skip the running pytest test for `reason`, or fail the test if the environment variable CI is set.

    For a test that needs root, a kernel feature or a network that this machine lacks.
    """
    import pytest

    give_up = pytest.fail if os.environ.get("CI") else pytest.skip
    raise give_up.Exception(reason)
