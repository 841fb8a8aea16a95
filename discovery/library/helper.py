"""The helper process: follows a registry for the application, or keeps a registration while a process of it lives.

The helper ignores SIGTERM and SIGINT, which supervisors send to every process of a unit: it ends when the application's
end of its standard input is closed, in whatever way the application ends.
"""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from discovery.library.following import FollowedRegistry, FollowerState
from discovery.library.frames import Encoder
from discovery.library.keeper import keep
from discovery.library.logs import library_log
from discovery.library.process import error_document
from discovery.library.selection import Selection
from discovery.library.settings import Place, registry_of
from discovery.system.asyncio_tools import cancel_and_wait

_END_SECONDS = 5.0
"""Seconds for an orderly end."""


def main(task: str) -> None:
    """Do `task`, "follow" or "keep", and exit."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    asyncio.run(_follow() if task == "follow" else keep(os.dup(0)))
    sys.stdout.flush()
    os._exit(0)  # a registry of a plugin may have left a thread that never ends


async def _follow() -> None:
    request = json.loads(sys.stdin.readline())
    output = _Output()
    place = Place(registry_of(request["registry"]), state_dir=Path(request["state_dir"]))
    following = FollowedRegistry(place, Selection(request["services"]), library_log(output.log), output.state)
    running = asyncio.create_task(following.run())
    writing = asyncio.create_task(output.write())
    closed = asyncio.Event()
    asyncio.get_running_loop().add_reader(0, closed.set)
    waiting = asyncio.create_task(closed.wait())
    await asyncio.wait({running, writing, waiting}, return_when=asyncio.FIRST_COMPLETED)
    if running.done() and not running.cancelled() and (error := running.exception()) is not None:
        output.error(error)
        await asyncio.wait({writing, waiting}, timeout=_END_SECONDS, return_when=asyncio.FIRST_COMPLETED)
    await cancel_and_wait(running, writing, waiting, timeout=_END_SECONDS)


class _Output:
    """Writes frames to stdout without delaying the loop: of the states only the latest, if the reader is slow."""

    def __init__(self) -> None:
        self._encoder = Encoder()
        self._lines: list[bytes] = []
        self._state: FollowerState | None = None
        self._wake = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._ends = False

    def state(self, state: FollowerState) -> None:
        """Write `state`, unless a later state comes first."""
        self._state = state
        self._wake.set()

    def log(self, level: int, text: str) -> None:
        """Write a line for the application's log. From any thread."""
        self._loop.call_soon_threadsafe(self._add, {"log": [level, text]})

    def error(self, error: BaseException) -> None:
        """Write the reason why following has ended, and then nothing more."""
        self._ends = True
        self._add({"error": error_document(error)})

    def _add(self, document: Mapping[str, Any]) -> None:
        self._lines.append(json.dumps(document).encode() + b"\n")
        self._wake.set()

    async def write(self) -> None:
        """Write until the reader has gone, or after an error."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            lines, self._lines = self._lines, []
            state, self._state = self._state, None
            if state is not None:
                lines.insert(0, self._encoder.frame(state))
            try:
                await asyncio.to_thread(_write_all, b"".join(lines))
            except OSError:
                return
            if self._ends and not self._lines:
                return


def _write_all(data: bytes) -> None:
    while data:
        data = data[os.write(1, data) :]
