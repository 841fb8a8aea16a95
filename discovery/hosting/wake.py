"""An event that any thread sets, for a single event loop."""

import asyncio
import threading
from contextlib import suppress


class Wake:
    """An event that any thread sets, awaited on a single loop."""

    def __init__(self) -> None:
        """Closed: what is set before `open` wakes nobody."""
        self._lock = threading.Lock()
        self._event = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._under_way = False
        self._woken = False

    def open(self) -> None:
        """Be awaited on the running loop from now on."""
        self._loop = asyncio.get_running_loop()

    def set(self) -> None:
        """Wake the task that waits, or that will wait next; from any thread."""
        # At most one call is under way, so that a plugin that blocks its loop does not collect them.
        with self._lock:
            if self._loop is not None and not self._under_way:
                with suppress(RuntimeError):  # the loop was closed meanwhile: nobody is left to be told
                    self._loop.call_soon_threadsafe(self._arrive)
                    self._under_way = True

    async def wait(self, timeout: float) -> bool:
        """Return True if set within `timeout` seconds."""
        alarm = asyncio.get_running_loop().call_later(timeout, self._event.set)
        try:
            await self._event.wait()
        finally:
            alarm.cancel()
        woken, self._woken = self._woken, False
        self._event.clear()
        return woken

    def _arrive(self) -> None:
        with self._lock:
            self._under_way = False
        self._woken = True
        self._event.set()
