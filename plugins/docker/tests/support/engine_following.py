"""A followed engine and a relay in front of an engine, for the tests of the class Engine."""

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import aclosing, contextmanager, suppress
from typing import Any, Self

import structlog
from docker_lab import LinkedEngine

from discovery.testing import eventually_sync, within
from discovery_docker.container import Container
from discovery_docker.engine import Engine, EngineError, EngineState


class Seen:
    """The states and errors of an engine, followed on a thread."""

    def __init__(self, engine: Engine) -> None:
        self.states: list[EngineState] = []
        self.errors: list[str] = []
        self._engine = engine
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run)

    @property
    def latest(self) -> EngineState:
        return self.states[-1]

    def get(self, name: str) -> Container:
        """Return a container of the latest state. Raises LookupError if the state has no such container."""
        return {container.name: container for container in self.latest.containers}[name]

    @property
    def names(self) -> list[str]:
        return [container.name for container in self.latest.containers]

    @property
    def stopping(self) -> list[str]:
        return [container.name for container in self.latest.containers if container.id in self.latest.stopping]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join(timeout=within(10))
        assert not self._thread.is_alive()
        assert all(one != other for one, other in zip(self.states, self.states[1:], strict=False))

    def _run(self) -> None:
        self._task = self._loop.create_task(self._follow())
        with suppress(asyncio.CancelledError):
            self._loop.run_until_complete(self._task)
        self._loop.close()

    async def _follow(self) -> None:
        while True:
            try:
                async with aclosing(self._engine.follow()) as states:
                    is_repeated = bool(self.states)  # the first of another attempt may be equal
                    async for state in states:
                        if not (is_repeated and state == self.latest):
                            self.states.append(state)
                        is_repeated = False
            except EngineError as error:
                self.errors.append(str(error))
                await asyncio.sleep(0.05)


@contextmanager
def following(url: str | None, **options: Any) -> Iterator[Seen]:
    """Follow the engine at `url`, or the one that is found; enter after the first state."""
    with Seen(Engine(url, structlog.get_logger(), **options)) as seen:
        eventually_sync(lambda: seen.states, "the first state", timeout=30)
        yield seen


class Relay:
    """A socket at `url` from which an engine is reached for as long as it is `open`; and silently, if `mute`.

    Mute, it carries no event, as the engine itself does when its buffer of them is full. What contains `lost` does not
    reach the engine, as when that is too busy to answer; `losses` counts these.
    """

    def __init__(self, engine: LinkedEngine) -> None:
        self.path = engine.directory / "relay.sock"
        self.url = f"unix://{self.path}"
        self.mute = False
        self.lost = b""
        self.losses = 0
        self._engine = engine
        self._listener = socket.socket()
        self._ends: list[socket.socket] = []

    def open(self) -> None:
        self.path.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.path))
        self._listener.listen(64)
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def close(self) -> None:
        for end in (self._listener, *self._ends):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        self._ends.clear()

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                here = listener.accept()[0]
                there = socket.socket(socket.AF_UNIX)
                there.connect(str(self._engine.socket))
                self._ends += [here, there]
                events = threading.Event()
                for one, other, back in ((here, there, False), (there, here, True)):
                    threading.Thread(target=self._carry, args=(one, other, back, events), daemon=True).start()

    def _carry(self, one: socket.socket, other: socket.socket, back: bool, events: threading.Event) -> None:
        with suppress(OSError):
            while data := one.recv(65536):
                if not back and b"/events?" in data:
                    events.set()
                if not back and self.lost and self.lost in data:
                    self.losses += 1
                elif not (back and events.is_set() and self.mute):
                    other.sendall(data)
            other.shutdown(socket.SHUT_RDWR)
