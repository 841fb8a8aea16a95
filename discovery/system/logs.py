"""Logging: key=value lines or JSON on stderr, from structlog and from the libraries alike."""

import logging
import os
import sys
import threading
import traceback
from collections.abc import MutableMapping
from contextlib import suppress
from typing import Any, Literal, TextIO, cast

import structlog
from structlog.typing import ExcInfo, Processor, WrappedLogger

from discovery.system.frequency import Budget, kind
from discovery.system.terminal import printable, shows_colours

LogFormat = Literal["text", "json"]
LogLevel = Literal["debug", "info", "warning", "error"]

_BURST = (50, 60.0)
"""Warnings and errors of one kind: at once, and seconds for each further one."""
_BURST_OF_INFO = (200, 3.0)
"""The same for other lines, of which a start and a reload log many."""
_MOST_KINDS = 1000
"""Kinds of lines that are counted: a bound on memory if texts from outside make every line differ."""


def configure_logging(level: LogLevel = "info", format: LogFormat = "text") -> None:  # noqa: A002 - as the option
    """Log to stderr from now on: as text (with colours on a terminal) or as one JSON object a line.

    Libraries that log through `logging` are heard from "warning" up, or all of them at level "debug".

    Lines of one kind, which differ in their fields or in numbers alone, are bounded at every level but "debug": beyond
    a burst they are left out, and the next one says how many were. A line with `every=True` is never left out: what an
    operator asked for line by line, such as an access log.
    """
    # Read once, when grpc is loaded: it would write lines of its own beside ours.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    number = logging.getLevelNamesMapping()[level.upper()]
    bounds = _RateLimiter() if number > logging.DEBUG else None
    stream = cast("TextIO", _DetachableStream(sys.stderr))
    before: list[Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    bounded: list[Processor] = [_unbounded if bounds is None else bounds]
    rendered: list[Processor] = (
        [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(default=str)]
        if format == "json"
        else [_one_line, _console(shows_colours(sys.stderr))]
    )
    structlog.configure(
        processors=[*bounded, *before, *rendered],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(file=stream),
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *before],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *rendered],
        )
    )
    if bounds is not None:
        handler.addFilter(bounds.passes)
    # It would tell of every file that anybody opens in a directory with one of ours: of our own log there, forever.
    logging.getLogger("watchdog").setLevel(logging.INFO)
    logging.basicConfig(
        handlers=[handler], level=number if level in ("debug", "error") else logging.WARNING, force=True
    )


def log_format() -> LogFormat:
    """Return the format in which this process logs, `text` or `json`, for children that log alike. From any thread."""
    renderers = structlog.get_config()["processors"]
    return "json" if any(isinstance(each, structlog.processors.JSONRenderer) for each in renderers) else "text"


def _console(colors: bool) -> Processor:
    # Not rich's tracebacks: those show local variables, secrets among them.
    return structlog.dev.ConsoleRenderer(0, colors=colors, pad_level=False, exception_formatter=_traceback)


def _traceback(out: TextIO, error: ExcInfo) -> None:
    # What an error says may quote what came from outside, too.
    out.writelines(
        f"\n{printable(line)}" for line in "".join(traceback.format_exception(*error)).rstrip("\n").split("\n")
    )


def _one_line(_: WrappedLogger, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    # Reasons quote what came from outside; it must not look like another line, nor drive the terminal.
    for key, value in event.items():
        if isinstance(value, str):
            event[key] = printable(value)
    return event


class _RateLimiter:
    """Leaves out what comes in floods, so that nothing from outside fills the disk. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._budgets: dict[tuple[str, ...], tuple[Budget, list[int]]] = {}

    def __call__(self, _: WrappedLogger, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        if event.pop("every", False):
            return event
        who = tuple(str(event[name]) for name in ("consumer", "provider") if name in event)
        left_out = self._take((method, str(event.get("event", "")), *who))
        if left_out is None:
            raise structlog.DropEvent
        return {**event, **left_out}

    def passes(self, record: logging.LogRecord) -> bool:
        """As a filter of library loggers."""
        left_out = self._take((record.levelname, record.name, str(record.msg)))
        if left_out:
            record.msg = f"{record.getMessage()} {' '.join(f'{name}={value}' for name, value in left_out.items())}"
            record.args = ()
        return left_out is not None

    def _take(self, key: tuple[str, ...]) -> dict[str, Any] | None:
        """What to add to the line, or None if it is to be left out."""
        with self._lock:
            key = tuple(kind(part[:200]) for part in key)
            if key not in self._budgets and len(self._budgets) >= _MOST_KINDS:
                del self._budgets[next(iter(self._budgets))]
            burst = _BURST if key[0].lower() in ("warning", "error", "critical") else _BURST_OF_INFO
            budget, left_out = self._budgets.setdefault(key, (Budget(*burst), [0]))
            if not budget.take():
                left_out[0] += 1
                return None
            added: dict[str, Any] = {"left_out": left_out[0]} if left_out[0] else {}
            left_out[0] = 0
            return added | ({"note": "more lines of this kind are left out for a while"} if budget.spent else {})


def _unbounded(_: WrappedLogger, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    event.pop("every", None)
    return event


class _DetachableStream:
    """A stream whose reader may go away: a daemon does not end because nobody reads its log any more."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        with suppress(OSError, ValueError):
            self._stream.write(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            self._stream.flush()
