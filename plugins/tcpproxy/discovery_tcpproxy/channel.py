"""Our end of the socket pair that a worker is told by: one question at a time, each answered."""

import asyncio
import itertools
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from discovery import DiscoveryError, describe
from discovery_tcpproxy import wire

_LOOKS = 10
"""The number of looks for an answer in the time that it may take."""


class WorkerError(DiscoveryError):
    """A worker is gone, or does not answer."""


class GoneError(WorkerError):
    """A worker has hung up, as one does that ends."""


class RefusedError(DiscoveryError):
    """A worker says that it could not do what it was told, and goes on."""

    def __init__(self, message: str, answer: Mapping[str, Any]) -> None:
        """`answer` is all that it says."""
        super().__init__(message)
        self.answer = answer


class Channel:
    """Asks a worker; what it says of its own accord goes to `on_event`."""

    def __init__(self, ours: socket.socket, on_event: Callable[[Mapping[str, Any]], None]) -> None:
        """Talk through `ours`, from the running loop."""
        ours.setblocking(False)
        self._socket = ours
        self._on_event = on_event
        self._reader = wire.Reader(ours)
        self._numbers = itertools.count(wire.FIRST)
        self._turn = asyncio.Lock()
        self._waiting: tuple[int, asyncio.Future[tuple[dict[str, Any], list[int]]]] | None = None
        self._loop = asyncio.get_running_loop()
        self._open = True
        self._loop.add_reader(ours, self._read)

    async def ask(
        self, do: str, patience: float, message: Mapping[str, Any] | None = None, descriptors: Sequence[int] = ()
    ) -> dict[str, Any]:
        """Ask the worker, and return the answer. Raises WorkerError or RefusedError."""
        answer, received = await self.ask_for_sockets(do, patience, message, descriptors)
        for each in received:
            each.close()
        return answer

    async def ask_for_sockets(
        self, do: str, patience: float, message: Mapping[str, Any] | None = None, descriptors: Sequence[int] = ()
    ) -> tuple[dict[str, Any], list[socket.socket]]:
        """Ask the worker, and return the answer with its sockets. Raises WorkerError or RefusedError."""
        async with self._turn:
            number = next(self._numbers)
            future: asyncio.Future[tuple[dict[str, Any], list[int]]] = self._loop.create_future()
            self._waiting = (number, future)
            frame = wire.encode({"do": do, "seq": number, **(message or {})})
            sending = asyncio.ensure_future(self._send(frame, descriptors))
            try:
                await self._wait(sending, future, patience)
                if not future.done():
                    raise WorkerError(f"no answer to {do!r} within {patience:g} s")
                answer, received = future.result()
            finally:
                self._waiting = None
                sending.cancel()
                future.cancel()
        if "error" in answer:
            raise RefusedError(f"{do}: {answer['error']}", answer)
        return answer, [socket.socket(fileno=each) for each in received]

    def close(self) -> None:
        """Take what has arrived and hang up."""
        if self._open:
            with suppress(OSError, ValueError):
                while self._reader.read():
                    pass
            with suppress(ValueError):
                for message, descriptors in self._reader.frames():
                    self._take(message, descriptors)
            self._open = False
            self._loop.remove_reader(self._socket)
            self._socket.close()
            self._reader.close()
            self._fail("it was hung up on")

    async def _wait(self, sending: "asyncio.Future[None]", future: "asyncio.Future[Any]", patience: float) -> None:
        """Until there is an answer, at most `patience` seconds in which we run: were we stopped, it is not to blame."""
        for _ in range(_LOOKS):
            await asyncio.wait({future}, timeout=patience / _LOOKS)
            if future.done():
                return
            if sending.done() and (error := sending.exception()) is not None:
                raise GoneError(f"it is gone: {describe(error)}") from None

    async def _send(self, frame: bytes, descriptors: Sequence[int]) -> None:
        if not self._open:
            raise GoneError("it is gone")
        # An answer is awaited before the next frame is sent, so that there is room for the first byte at least.
        sent = socket.send_fds(self._socket, [frame], descriptors) if descriptors else 0
        await self._loop.sock_sendall(self._socket, memoryview(frame)[sent:])

    def _read(self) -> None:
        try:
            alive = self._reader.read()
            for message, descriptors in self._reader.frames():
                self._take(message, descriptors)
        except BlockingIOError:
            return
        except (OSError, ValueError) as error:
            self._end(describe(error))
        else:
            if not alive:
                self._end("it is gone")

    def _take(self, message: dict[str, Any], descriptors: list[int]) -> None:
        if "event" in message:
            self._on_event(message)
        elif self._waiting is not None and message.get("re") == self._waiting[0] and not self._waiting[1].done():
            self._waiting[1].set_result((message, descriptors))
            return
        for descriptor in descriptors:
            os.close(descriptor)

    def _end(self, reason: str) -> None:
        if self._open:
            self._loop.remove_reader(self._socket)
        self._fail(reason)

    def _fail(self, reason: str) -> None:
        if self._waiting is not None and not self._waiting[1].done():
            self._waiting[1].set_exception(GoneError(reason))
