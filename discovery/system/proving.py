"""Proof that a program shows a new state: asked again and again, until it does or the time is up."""

import asyncio
import time
from collections.abc import Awaitable, Callable

from discovery.errors import ApplyError
from discovery.system.either import completed

_FIRST_WAIT = 0.01
"""Seconds until the second attempt: most programs take a few milliseconds."""
_LONGEST_WAIT = 0.5
"""Seconds between attempts at most; each wait is twice the wait before."""


async def wait_for_proof(attempt: Callable[[], Awaitable[str | None] | str | None], timeout: float, what: str) -> None:
    """Call `attempt`, a function or a coroutine function, until the result is None. Other results say what is missing.

    Raises ApplyError with `what` and the last result after `timeout` seconds, and what `attempt` raises.
    """
    deadline = time.monotonic() + timeout
    wait = _FIRST_WAIT
    while (missing := await completed(attempt())) is not None:
        if time.monotonic() >= deadline:
            raise ApplyError(f"{what} within {timeout:g} s: {missing}")
        await asyncio.sleep(min(wait, max(0.0, deadline - time.monotonic())))
        wait = min(_LONGEST_WAIT, 2 * wait)
