"""Logging: key=value lines or JSON on stderr, from structlog and from the libraries alike."""

import logging
import os
import sys
from collections.abc import MutableMapping
from contextlib import suppress
from typing import Any, Literal, TextIO, cast

import structlog
from structlog.typing import Processor, WrappedLogger

from discovery.terminal import printable, shows_colours

LogFormat = Literal["text", "json"]
LogLevel = Literal["debug", "info", "warning", "error"]


def configure_logging(level: LogLevel = "info", format: LogFormat = "text") -> None:  # noqa: A002 - as the option
    """Log to stderr from now on: as text (with colours on a terminal) or as one JSON object a line.

    Libraries that log through `logging` are heard from "warning" up, or all of them at level "debug".
    """
    # Read once, when grpc is loaded: it would write lines of its own beside ours.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    number = logging.getLevelNamesMapping()[level.upper()]
    stream = cast("TextIO", _Steadfast(sys.stderr))
    before: list[Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    rendered: list[Processor] = (
        [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(default=str)]
        if format == "json"
        else [_one_line, _console(shows_colours(sys.stderr))]
    )
    structlog.configure(
        processors=[*before, *rendered],
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
    # It would tell of every file that anybody opens in a directory with one of ours: of our own log there, for ever.
    logging.getLogger("watchdog").setLevel(logging.INFO)
    logging.basicConfig(
        handlers=[handler], level=number if level in ("debug", "error") else logging.WARNING, force=True
    )


def log_format() -> LogFormat:
    """How this process logs, for children that are to log alike."""
    renderers = structlog.get_config()["processors"]
    return "json" if any(isinstance(each, structlog.processors.JSONRenderer) for each in renderers) else "text"


def _console(colors: bool) -> Processor:
    # Not rich's tracebacks: those show local variables, secrets among them.
    return structlog.dev.ConsoleRenderer(
        0, colors=colors, pad_level=False, exception_formatter=structlog.dev.plain_traceback
    )


def _one_line(_: WrappedLogger, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    # Reasons quote what came from outside; it must not look like another line, nor drive the terminal.
    for key, value in event.items():
        if isinstance(value, str):
            event[key] = printable(value)
    return event


class _Steadfast:
    """A stream whose reader may go away: a daemon does not end because nobody reads its log any more."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        with suppress(OSError, ValueError):
            self._stream.write(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            self._stream.flush()
