"""The daemon's end of the connection to a worker: one request at a time, each with a response."""

import asyncio
import itertools
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from discovery import DiscoveryError, describe
from discovery_tcpproxy import wire

_SLICES = 10
"""Parts of a timeout. A daemon that was suspended loses one part at most, and does not blame the worker."""


class WorkerError(DiscoveryError):
    """Error of a worker that has ended or does not answer."""


class WorkerGoneError(WorkerError):
    """A worker has closed its end of the connection, usually because the process is ending."""


class CommandRefusedError(DiscoveryError):
    """A worker could not execute a command, and continues to run."""

    def __init__(self, message: str, answer: Mapping[str, Any]) -> None:
        """Create the error from the response `answer` of the worker."""
        super().__init__(message)
        self.answer = answer


class WorkerChannel:
    """Connection to a worker. Messages that are no responses are passed to `on_event`."""

    def __init__(self, sock: socket.socket, on_event: Callable[[Mapping[str, Any]], None]) -> None:
        """Use the connected socket `sock` on the running event loop."""
        sock.setblocking(False)
        self._socket = sock
        self._on_event = on_event
        self._reader = wire.Reader(sock)
        self._numbers = itertools.count(wire.FIRST)
        self._lock = asyncio.Lock()
        self._waiting: tuple[int, asyncio.Future[tuple[dict[str, Any], list[int]]]] | None = None
        self._loop = asyncio.get_running_loop()
        self._open = True
        self._loop.add_reader(sock, self._read)

    async def request(
        self, do: str, timeout: float, message: Mapping[str, Any] | None = None, descriptors: Sequence[int] = ()
    ) -> dict[str, Any]:
        """Send the command `do`, and return the response.

        `message` are the parameters; `timeout` is in seconds. Raises WorkerError or CommandRefusedError.
        """
        answer, received = await self.request_sockets(do, timeout, message, descriptors)
        for each in received:
            each.close()
        return answer

    async def request_sockets(
        self, do: str, timeout: float, message: Mapping[str, Any] | None = None, descriptors: Sequence[int] = ()
    ) -> tuple[dict[str, Any], list[socket.socket]]:
        """Send a command as `request` does, and return the response and the sockets that came with the response."""
        async with self._lock:
            number = next(self._numbers)
            future: asyncio.Future[tuple[dict[str, Any], list[int]]] = self._loop.create_future()
            self._waiting = (number, future)
            frame = wire.encode({"do": do, "seq": number, **(message or {})})
            sending = asyncio.ensure_future(self._send(frame, descriptors))
            try:
                await self._wait(sending, future, timeout)
                if not future.done():
                    raise WorkerError(f"no answer to {do!r} within {timeout:g} s")
                answer, received = future.result()
            finally:
                self._waiting = None
                sending.cancel()
                future.cancel()
        if "error" in answer:
            raise CommandRefusedError(f"{do}: {answer['error']}", answer)
        return answer, [socket.socket(fileno=each) for each in received]

    def close(self) -> None:
        """Handle the messages that have arrived, and close the socket."""
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
            self._fail("the channel was closed")

    async def _wait(self, sending: "asyncio.Future[None]", future: "asyncio.Future[Any]", timeout: float) -> None:
        """Wait for a response, at most `timeout` seconds during which this process runs (and is not suspended)."""
        for _ in range(_SLICES):
            await asyncio.wait({future}, timeout=timeout / _SLICES)
            if future.done():
                return
            if sending.done() and (error := sending.exception()) is not None:
                raise WorkerGoneError(f"the worker has closed the connection: {describe(error)}") from None

    async def _send(self, frame: bytes, descriptors: Sequence[int]) -> None:
        if not self._open:
            raise WorkerGoneError("the worker has closed the connection")
        # The socket buffer is empty: the response is awaited before the next frame is sent.
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
                self._end("the worker has closed the connection")

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
            self._waiting[1].set_exception(WorkerGoneError(reason))
