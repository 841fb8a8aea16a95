"""The events of a Docker engine's containers, read by a client of its own: independent of the code under test."""

import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Self

import docker

from discovery.testing import eventually_sync, within


@dataclass(frozen=True)
class Event:
    """An event of a container; `at` is its time in seconds since the epoch."""

    at: float
    action: str
    name: str


class EngineHistory:
    """The events of a Docker engine's containers, also after restarts of the engine."""

    def __init__(self, client: docker.DockerClient) -> None:
        """Follow the engine with a client of its own."""
        self.events: list[Event] = []
        self._client = client
        self._ended = threading.Event()
        self._stream: Any = None
        self._since = time.time()
        self._thread = threading.Thread(target=self._read, daemon=True)

    def wait(self, action: str, name: str, after: int = 0) -> Event:
        """Wait for such an event, from index `after` on, and return the first."""
        return eventually_sync(
            lambda: next(iter([e for e in self.events[after:] if (e.action, e.name) == (action, name)]), None),
            f"{action} of {name}",
        )

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._stream is not None:
            self._stream.close()
        self._thread.join(within(10))

    def _read(self) -> None:
        while not self._ended.is_set():
            with suppress(docker.errors.DockerException, OSError, ValueError, AttributeError):
                self._stream = self._client.events(
                    decode=True, since=f"{self._since:.9f}", filters={"type": "container"}
                )
                for event in self._stream:
                    self._since = event["timeNano"] / 1e9 + 1e-6
                    name = event["Actor"]["Attributes"]["name"]
                    self.events.append(Event(event["timeNano"] / 1e9, event["Action"], name))
            self._ended.wait(0.05)
