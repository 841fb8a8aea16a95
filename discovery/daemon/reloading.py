"""Reloads of the configuration: at SIGHUP, and when the configuration file changes."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING

from structlog.typing import FilteringBoundLogger

from discovery.errors import describe
from discovery.system import systemd
from discovery.system.asyncio_tools import cancel_and_wait
from discovery.system.signals import on_hangup

if TYPE_CHECKING:
    from discovery.system.filewatch import FileWatch

RELOAD_DELAY = 0.1
"""Seconds between a change of the file and the reload: an editor touches a file several times when it saves."""
STOP_DEADLINE = 2.0
"""Seconds in which a reload that is under way is cancelled when the daemon ends."""


class Reloads:
    """Asks for reloads without overlaps, and keeps the reason why the last reload failed. For the core's loop."""

    def __init__(self, config: Path | None, reload: Callable[[], Awaitable[None]], log: FilteringBoundLogger) -> None:
        """Prepare; `listen` and `start` begin. `config` is the configuration file, which `reload` reads again.

        `reload` raises what makes the new configuration invalid; the old one then stays.
        """
        self.error: str | None = None
        """Why the last reload failed; None if it did not."""
        self._config = config
        self._reload = reload
        self._log = log
        self._loop = asyncio.get_running_loop()
        self._requested = asyncio.Event()
        self._turn = asyncio.Lock()
        self._watch: FileWatch | None = None
        self._task: asyncio.Task[None] | None = None

    def listen(self) -> None:
        """Take note of SIGHUP from now on, and import what watching takes."""
        on_hangup(self._requested.set)
        if self._config is not None:
            import discovery.system.filewatch  # noqa: F401 - here: without a file nothing is watched

    def start(self) -> None:
        """Watch the file, and reload from now on whenever a reload is requested."""
        if self._config is not None and not self._config.is_char_device():  # every program writes to /dev/null
            self._watch = self._watch_file(self._config)
        self._task = asyncio.create_task(self._run())

    async def suspend(self) -> None:
        """Wait for the end of a reload that is under way; no other begins any more."""
        await self._turn.acquire()

    async def stop(self) -> None:
        """Watch nothing, and cancel a reload that is under way."""
        if self._watch is not None:
            self._watch.close()
        if self._task is not None:
            await cancel_and_wait(self._task, timeout=STOP_DEADLINE)

    def _watch_file(self, config: Path) -> "FileWatch | None":
        from discovery.system.filewatch import FileWatch

        def changed() -> None:
            self._loop.call_soon_threadsafe(self._requested.set)

        try:
            return FileWatch([config], changed)
        except OSError as error:
            self._log.warning(
                "the configuration file cannot be watched; send SIGHUP after a change", reason=error.strerror
            )
            return None

    async def _run(self) -> None:
        while True:
            await self._requested.wait()
            await asyncio.sleep(RELOAD_DELAY)
            self._requested.clear()
            systemd.reloading()
            try:
                async with self._turn:
                    await self._reload()
            except Exception as error:  # noqa: BLE001 - a plugin may raise anything, and must not end reloading
                self.error = describe(error)
                self._log.error("the new configuration is invalid and was not applied", reason=self.error)
            else:
                self.error = None
            systemd.notify("READY=1")
