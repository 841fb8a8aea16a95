"""Those who wait until the daemon is in some state: told by any thread, for nothing while nobody waits."""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

MOST_WAITERS = 16
"""Waiters at a time, at most."""
_LOOK_SECONDS = 1.0
"""Seconds after which a waiter whose client has gone is dropped."""


class TooManyWaitersError(Exception):
    """As many wait as may."""


class Waiters:
    """Waits for conditions. For one event loop, but `tell` for any thread."""

    def __init__(self, most: int = MOST_WAITERS, look_seconds: float = _LOOK_SECONDS) -> None:
        """Nobody waits yet; at most `most` may, each of whom looks after `look_seconds` unasked.

        To be made on the event loop.
        """
        self._loop = asyncio.get_running_loop()
        self._most = most
        self._look_seconds = look_seconds
        self._count = 0
        self._told = False
        self._event = asyncio.Event()
        self._listeners: list[Callable[[], None]] = []

    @property
    def count(self) -> int:
        """How many wait now."""
        return self._count

    @contextmanager
    def listening(self, listener: Callable[[], None]) -> Iterator[None]:
        """Have `listener` called, on the event loop, whenever somebody tells, until the end of the block."""
        self._listeners.append(listener)
        try:
            yield
        finally:
            self._listeners.remove(listener)

    def tell(self) -> None:
        """Have every condition looked at again. From any thread. Several calls before the loop's turn are one."""
        if (self._count or self._listeners) and not self._told:
            self._told = True
            with suppress(RuntimeError):  # the loop is closed: the daemon has ended
                self._loop.call_soon_threadsafe(self._wake)

    async def wait(
        self, is_met: Callable[[], bool], seconds: float, is_over: Callable[[], bool], most: int | None = None
    ) -> bool:
        """Return True as soon as `is_met`, False after `seconds` or if `is_over`, which is asked again and again.

        Raises TooManyWaitersError at once if there is no room to wait, or if `most` wait already.
        """
        if is_met():
            return True
        if self._count >= (self._most if most is None else min(most, self._most)):
            raise TooManyWaitersError
        deadline = time.monotonic() + seconds
        self._count += 1  # from here on `tell` is heard; the condition is looked at once more
        try:
            while not is_met():
                left = deadline - time.monotonic()
                if left <= 0 or is_over():
                    return False
                with suppress(TimeoutError):
                    async with asyncio.timeout(min(left, self._look_seconds)):
                        await self._event.wait()
            return True
        finally:
            self._count -= 1

    def _wake(self) -> None:
        self._told = False
        event, self._event = self._event, asyncio.Event()
        event.set()
        for listener in self._listeners:
            listener()
