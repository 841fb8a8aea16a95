"""Methods that an author writes with `def` or with `async def`: awaited in one way, and iterated in one way."""

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Generator, Iterator
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, TypeVar

from discovery.system.asyncio_tools import wait_for_event

STEP_SECONDS = 2.0
"""Seconds that the running step of a plain generator has to end when the iteration ends; nothing can interrupt it."""

T = TypeVar("T")
R = TypeVar("R")


class Ready(Coroutine[Any, Any, R]):
    """A coroutine that has its result already: may be awaited, and need not be."""

    def __init__(self, result: R) -> None:
        """Keep the result."""
        self._result = result

    def __await__(self) -> Generator[Any, Any, R]:
        """Return the result at once."""
        return _value(self._result).__await__()

    def send(self, value: Any) -> Any:
        """End with the result. See `Coroutine.send`."""
        raise StopIteration(self._result)

    def throw(self, *error: Any) -> Any:
        """Raise `error`. See `Coroutine.throw`."""
        raise error[0]

    def close(self) -> None:
        """Do nothing: there is nothing to end."""


async def _value(result: R) -> R:
    return result


async def completed(result: Awaitable[T] | T) -> T:
    """Return what a method returned: the result of a coroutine function, or the value of a plain function."""
    return await result if isinstance(result, Awaitable) else result


async def called(function: Callable[[], Awaitable[T] | T]) -> T:
    """Call `function` in the task that awaits this, and return its result: of a coroutine function or a plain one."""
    return await completed(function())


async def iterated(
    items: AsyncIterator[T] | Iterator[T], step_seconds: float = STEP_SECONDS
) -> AsyncGenerator[T, None]:
    """Yield the items of an asynchronous iterator here, or of a plain iterator on a thread of its own; close it then.

    A plain iterator may block. When this generator is closed, the running step has `step_seconds` to end, and is then
    left alone: its thread closes the iterator after the step. Raises TypeError for anything else.
    """
    given: object = items
    if isinstance(given, Coroutine):
        given.close()  # else there is a warning that nobody has awaited it
    if not isinstance(given, AsyncIterator | Iterator):
        raise TypeError(f"it is a {type(given).__name__}, and neither a generator nor an asynchronous generator")
    if isinstance(items, AsyncIterator):
        try:
            async for item in items:
                yield item
        finally:
            if isinstance(items, AsyncGenerator):
                await items.aclose()
    else:
        steps = _Steps(items)
        try:
            while (reached := await steps.next()) is not None:
                yield reached[0]
        finally:
            await steps.close(step_seconds)


class _Steps:
    """The steps of a plain iterator, each made on a thread of its own."""

    def __init__(self, items: Iterator[Any]) -> None:
        self._items = items
        self._loop = asyncio.get_running_loop()
        self._asked: SimpleQueue[asyncio.Future[Any] | None] = SimpleQueue()
        self._ended = asyncio.Event()
        threading.Thread(target=self._run, name=f"{threading.current_thread().name}-steps", daemon=True).start()

    async def next(self) -> tuple[Any] | None:
        """Return the next item, or None after the last."""
        arriving: asyncio.Future[tuple[Any] | None] = self._loop.create_future()
        self._asked.put(arriving)
        return await arriving

    async def close(self, seconds: float) -> None:
        """Close the iterator after the running step, and wait at most `seconds` for that."""
        self._asked.put(None)
        await wait_for_event(self._ended, seconds)

    def _run(self) -> None:
        while (arriving := self._asked.get()) is not None:
            try:
                reached: tuple[Any] | None = (next(self._items),)
            except StopIteration:
                self._tell(self._arrive, arriving, None)
            except BaseException as error:  # noqa: BLE001 - it is raised where the step is awaited
                self._tell(self._fail, arriving, error)
            else:
                self._tell(self._arrive, arriving, reached)
        if isinstance(self._items, Generator):
            with suppress(BaseException):
                self._items.close()
        self._tell(self._ended.set)

    def _tell(self, function: Callable[..., object], *arguments: object) -> None:
        with suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(function, *arguments)

    @staticmethod
    def _arrive(arriving: "asyncio.Future[Any]", reached: object) -> None:
        if not arriving.done():
            arriving.set_result(reached)

    @staticmethod
    def _fail(arriving: "asyncio.Future[Any]", error: BaseException) -> None:
        if not arriving.done():
            arriving.set_exception(error)
