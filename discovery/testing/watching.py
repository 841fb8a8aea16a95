"""Time limits for the calls of a plugin, also for a call that blocks its thread."""

import asyncio
import ctypes
import io
import sys
import threading
import time
import traceback
import weakref
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar, copy_context
from dataclasses import dataclass
from typing import Any, TypeVar

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


@dataclass(frozen=True)
class _Call:
    name: str
    seconds: float
    deadline: float


class Watch:
    """The present call of a thread, its limit, and the event loop of the thread."""

    def __init__(self) -> None:
        """Create the watch of a thread that begins now."""
        seconds = within(_WHOLE_SECONDS)
        self.current = _Call("the clause", seconds, time.monotonic() + seconds)
        self.loop: asyncio.AbstractEventLoop | None = None

    @contextmanager
    def call(self, name: str, seconds: float) -> Iterator[None]:
        """Limit what happens within the block to `seconds`."""
        before, seconds = self.current, within(seconds)
        self.current = _Call(name, seconds, time.monotonic() + seconds)
        try:
            yield
        finally:
            # What the call took does not count for the whole, which has a limit only because of faults of the contract.
            self.current = _Call(before.name, before.seconds, max(before.deadline, time.monotonic() + before.seconds))


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
