"""The import of a plugin on a thread of its own: an import that blocks is named, and ends in a fault of that plugin."""

import contextvars
import logging
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, Generic, TypeVar, cast

from discovery.errors import PluginError

TELL_SECONDS = 10.0
"""Seconds after which a log line names the plugin that is being imported: most imports take less than one second, and
less than ten on a busy machine."""
MOST_SECONDS = 30.0
"""Seconds that an import may take: large libraries take a few seconds, and ten times that on a busy machine."""

T = TypeVar("T")


def within_limit(what: str, load: Callable[[], T]) -> T:
    """Return what `load`, the import of the plugin `what`, returns, and raise what `load` raises.

    Raises PluginError, with the place where the import is, after MOST_SECONDS. The thread then goes on by itself, as
    nothing can end a thread. It holds the locks of the modules that it imports, so another import of these waits, too.
    A later call for the same plugin fails at once while that thread runs, and succeeds once the thread has ended.
    """
    before = next((each for each in threading.enumerate() if isinstance(each, _Import) and each.what == what), None)
    if before is not None:
        before.wait()
    importing = _Import(what, load)
    importing.start()
    importing.wait()
    return cast("T", importing.result())


class _Import(threading.Thread, Generic[T]):
    """An import that runs or has ended."""

    def __init__(self, what: str, load: Callable[[], T]) -> None:
        super().__init__(name=f"import-{what}", daemon=True)
        self.what = what
        self._load = load
        self._callers_context = contextvars.copy_context()
        self._begun = time.monotonic()
        self._ended = threading.Event()
        self._loaded: T | None = None
        self._error: BaseException | None = None

    def run(self) -> None:
        try:
            self._loaded = self._callers_context.run(self._load)
        except BaseException as error:  # noqa: BLE001 - raised where the import is awaited
            self._error = error
        self._ended.set()

    def result(self) -> T | None:
        if self._error is not None:
            raise self._error
        return self._loaded

    def wait(self) -> None:
        """Wait for the end. Raises PluginError if the import takes too long."""
        for seconds in (TELL_SECONDS, MOST_SECONDS):
            # Not `join`: a thread that was listed by `threading.enumerate` may not have begun.
            if self._ended.wait(max(0.0, self._begun + seconds - time.monotonic())):
                return
            if seconds < MOST_SECONDS:
                _LOG.warning("the plugin %r is being imported for %g s now, %s", self.what, seconds, self._place())
        raise PluginError(f"its import has not ended within {MOST_SECONDS:g} s, {self._place()}")

    def _place(self) -> str:
        """Return where the import is: the innermost line that is not of the import system."""
        frame: Any = sys._current_frames().get(self.ident or 0)  # noqa: SLF001 - there is no public way
        while frame is not None and frame.f_code.co_filename.startswith("<frozen"):
            frame = frame.f_back
        return "and is ending" if frame is None else f"at {frame.f_code.co_filename}, line {frame.f_lineno}"


_LOG = logging.getLogger("discovery")
"""Not structlog, which nobody has configured yet when a command imports plugins, and which then writes to stdout."""
