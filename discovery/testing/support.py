"""Waiting for conditions, free ports, and programs that a machine may lack."""

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
from typing import TypeVar

from discovery.errors import ConfigError
from discovery.system.embedded import find_program, wheel_program

T = TypeVar("T")

_POLL = 0.02
_NOT_YET = (AssertionError, OSError, LookupError)
_given: set[int] = set()
_random = random.SystemRandom()  # hypothesis seeds the others, so that parallel tests would be given the same ports


async def eventually(condition: Callable[[], T | Awaitable[T]], what: str = "", timeout: float = 10) -> T:
    """Poll `condition`, plain or async, until it returns something true, and return that.

    An AssertionError, OSError or LookupError from it means "not yet". Raises AssertionError after `timeout` seconds,
    saying `what` was waited for and how the condition last stood. On a busy machine the environment variable
    DISCOVERY_TEST_PATIENCE multiplies the seconds.
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
    """`eventually` for code without an event loop."""
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
    """How long a test waits at most for what takes less than `seconds` on an idle machine.

    The environment variable DISCOVERY_TEST_PATIENCE multiplies the seconds. `eventually` does so by itself; every other
    wait that has a limit only because of faults has the limit from here: `process.wait(within(20))`.
    """
    return seconds * float(os.environ.get("DISCOVERY_TEST_PATIENCE") or 1)


def _too_late(condition: object, what: str, timeout: float, outcome: object) -> AssertionError:
    what = what or getattr(condition, "__qualname__", repr(condition))
    error = AssertionError(f"waited {timeout:g} s in vain for {what}; last: {outcome!r}")
    error.__cause__ = outcome if isinstance(outcome, BaseException) else None
    return error


def free_port() -> int:
    """A TCP port that nothing listens on, on any address, and that no outgoing connection will take.

    Below the range from which the kernel serves outgoing connections, at random. No port is given twice, by this
    process or by any other that runs on this machine: what a port was asked for may be about to listen there.
    """
    for _ in range(1000):
        port = _random.randrange(10_240, 32_768)
        if port in _given or not _claim(port):
            continue
        with socket.socket() as probe:
            try:
                probe.bind(("", port))
            except OSError:
                continue
        _given.add(port)
        return port
    raise OSError("no free TCP port between 10240 and 32767")


def _claim(port: int) -> bool:
    """Lock the port's byte of a file that all tests of this user share, for as long as this process runs."""
    try:
        fcntl.lockf(_claims(), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
    except BlockingIOError:
        return False
    except OSError:
        return True  # nobody can lock it
    return True


@cache
def _claims() -> int:
    path = Path(tempfile.gettempdir(), f"discovery-test-ports-{os.getuid()}")
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)


def require_program(name: str, *, wheel: bool = True) -> Path:
    """Where `name` is: on PATH (the sbin directories too), or, if `wheel`, in the wheel that brings it.

    If it is missing, the running pytest test is skipped with a reason, or, when the environment variable CI is set,
    failed.
    """
    try:
        found = find_program(name)
        if wheel or found != wheel_program(name):
            return found
        reason = f"the program {name!r} is not on PATH, and its wheel does not do here"
    except ConfigError as error:
        reason = str(error)
    import pytest

    give_up = pytest.fail if os.environ.get("CI") else pytest.skip
    raise give_up.Exception(reason)
