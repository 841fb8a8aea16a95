"""Time limits for the calls of a plugin, also for a call that blocks its thread."""

import asyncio
import ctypes
import io
import sys
import threading
import time
import traceback
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from contextvars import ContextVar, copy_context
from typing import Any, NamedTuple, TypeVar

from discovery.testing.support import within

T = TypeVar("T")

_WHOLE_SECONDS = 60.0
"""Seconds for all of a clause: clauses take a few seconds, and every call within them has a limit of its own."""
_POLL = 0.25
"""Seconds between two looks at the present call."""
_PATIENCE = 2.0
"""Seconds for a call that was interrupted to end, before its thread is abandoned."""


class HangError(AssertionError):
    """A call of a plugin has not returned in time. The message has the name of the call and the stack of its thread."""


class _AbandonedError(BaseException):
    """Raised in a thread that is abandoned."""


class _Call(NamedTuple):
    name: str
    seconds: float
    deadline: float


class Watch:
    """The present calls of a thread, their limits, and the event loop of the thread."""

    def __init__(self) -> None:
        """Create the watch of a thread that begins now."""
        seconds = within(_WHOLE_SECONDS)
        self._whole = _Call("the clause", seconds, time.monotonic() + seconds)
        self._calls: dict[object, _Call] = {}
        """The innermost call of each task."""
        self.loop: asyncio.AbstractEventLoop | None = None

    @property
    def current(self) -> _Call:
        """The call whose limit ends first. From any thread."""
        return min([*self._calls.values()] or [self._whole], key=lambda call: call.deadline)

    @contextmanager
    def call(self, name: str, seconds: float) -> Iterator[None]:
        """Limit what happens within the block to `seconds`."""
        task = _task()
        before, seconds = self._calls.get(task), within(seconds)
        self._calls[task] = _Call(name, seconds, time.monotonic() + seconds)
        try:
            yield
        finally:
            # What the call took does not count for the whole, which has a limit only because of faults of the contract.
            self._whole = _extended(self._whole)
            if before is None:
                del self._calls[task]
            else:
                self._calls[task] = _extended(before)


def _extended(call: _Call) -> _Call:
    return call._replace(deadline=max(call.deadline, time.monotonic() + call.seconds))


def _task() -> "asyncio.Task[Any] | None":
    """Return the present task, or None outside of an event loop."""
    try:
        return asyncio.current_task()
    except RuntimeError:
        return None


_watch: ContextVar[Watch | None] = ContextVar("watch", default=None)
_hangs: "weakref.WeakKeyDictionary[type, str]" = weakref.WeakKeyDictionary()
"""The calls that have hung, by class: other clauses of the class fail at once, since each would wait again."""


@contextmanager
def limited(name: str, seconds: float) -> Iterator[None]:
    """Limit the call `name` of a plugin to `seconds`, within a clause; elsewhere there is no limit."""
    watch = _watch.get()
    if watch is None:
        yield
        return
    with watch.call(name, seconds):
        yield


@asynccontextmanager
async def waiting(name: str, seconds: float) -> AsyncIterator[None]:
    """Limit the call `name` of a plugin as `limited` does, but let this task alone raise HangError where it waits."""
    task, stacks = asyncio.current_task(), list[str]()

    def end() -> None:
        if task is not None:
            text = io.StringIO()
            task.print_stack(file=text)
            stacks.append(text.getvalue())
            task.cancel()

    timer = asyncio.get_running_loop().call_later(within(seconds), end)
    try:
        with limited(name, seconds + _PATIENCE):  # for a call that blocks, or that goes on when it is cancelled
            yield
    except asyncio.CancelledError:
        if task is None or not stacks:
            raise
        task.uncancel()
        raise HangError(f"{name} has not returned within {within(seconds):g} s; the stack:\n{stacks[0]}") from None
    finally:
        timer.cancel()


def run_loop(main: Coroutine[Any, Any, T]) -> T:
    """Run `main` on an event loop of its own, whose tasks are ended if a call hangs."""

    async def run() -> T:
        watch = _watch.get()
        if watch is not None:
            watch.loop = asyncio.get_running_loop()
        return await main

    return asyncio.run(run())


def watched(function: Callable[[], T], plugin: object = None) -> T:
    """Call `function` on a thread of its own and return the result.

    Raises what `function` raises, or HangError if a call within `function` takes longer than its limit. The thread is
    then interrupted and, if that fails, abandoned. After a hang of a class `plugin` later calls for the same class
    raise HangError at once.
    """
    if isinstance(plugin, type) and plugin in _hangs:
        raise HangError(f"not examined, since an earlier call has hung: {_hangs[plugin]}")
    watch, done = Watch(), threading.Event()
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        _watch.set(watch)
        try:
            results.append(function())
        except BaseException as error:  # noqa: BLE001 - raised again on the thread that waits
            errors.append(error)
        finally:
            done.set()

    thread = threading.Thread(target=copy_context().run, args=(run,), name="contract", daemon=True)
    thread.start()
    while not done.wait(_POLL):
        call = watch.current
        if time.monotonic() > call.deadline and not done.is_set():
            message = f"{call.name} has not returned within {call.seconds:g} s; the stack:\n{_stack(thread, watch)}"
            _interrupt(thread, watch, done)
            if isinstance(plugin, type):
                _hangs[plugin] = message
            raise HangError(message)
    thread.join()
    if errors:
        if isinstance(errors[0], HangError) and isinstance(plugin, type):
            _hangs[plugin] = str(errors[0])
        raise errors[0]
    return results[0]


def _stack(thread: threading.Thread, watch: Watch) -> str:
    """Return the stack of `thread` or, if its event loop waits, the stacks of its tasks."""
    frame = sys._current_frames().get(thread.ident or 0)  # noqa: SLF001 - the one way to the stack of another thread
    lines = traceback.format_stack(frame)[-6:] if frame else []
    if not lines or "select" not in lines[-1] or watch.loop is None:
        return "".join(lines)
    text = io.StringIO()
    for task in asyncio.all_tasks(watch.loop):
        task.print_stack(file=text)
    return text.getvalue()


def _interrupt(thread: threading.Thread, watch: Watch, done: threading.Event) -> None:
    if watch.loop is not None:
        with suppress(RuntimeError):
            watch.loop.call_soon_threadsafe(_cancel_all, watch.loop)
        if done.wait(_PATIENCE / 2):
            return
    if watch.loop is not None:
        _silence(watch.loop)
    ident = ctypes.c_ulong(thread.ident or 0)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ident, ctypes.py_object(_AbandonedError))
    done.wait(_PATIENCE / 2)


def _silence(loop: asyncio.AbstractEventLoop) -> None:
    """Let the tasks of a loop that is abandoned be destroyed without a line on stderr: the clause tells of the hang."""
    with suppress(RuntimeError):  # the loop has just made another task
        for task in asyncio.all_tasks(loop):
            task._log_destroy_pending = False  # type: ignore[attr-defined]  # noqa: SLF001 - asyncio has no other way


def _cancel_all(loop: asyncio.AbstractEventLoop) -> None:
    for task in asyncio.all_tasks(loop):
        task.cancel()
