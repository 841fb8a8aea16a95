"""The lines of `discovery watch --json`, each with the time at which it came."""

import time
from threading import Event, Thread
from typing import Self

from discovery.demo.processes import DemoProcess

_POLL = 0.01


class Watch:
    """Reads the output of a running `discovery watch --json` during the block."""

    def __init__(self, process: DemoProcess) -> None:
        """Read the output of `process`."""
        self._process = process
        self._lines: list[tuple[float, str]] = []
        self._stop = Event()
        self._thread = Thread(target=self._read)

    @property
    def lines(self) -> list[tuple[float, str]]:
        """The lines so far, each with its time of CLOCK_MONOTONIC."""
        return list(self._lines)

    def __enter__(self) -> Self:
        """Begin to read."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End."""
        self._stop.set()
        self._thread.join()

    def _read(self) -> None:
        done = 0
        while not self._stop.wait(_POLL):
            text = self._process.output
            end = text.rfind("\n") + 1
            now = time.monotonic()
            # Messages about the registry come on the same stream.
            self._lines += [(now, line) for line in text[done:end].splitlines() if line.startswith("{")]
            done = max(done, end)
