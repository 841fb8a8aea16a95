"""The log of the library: lines of the standard library's logger `discovery`, as the application configures it."""

import logging
from collections.abc import Callable, MutableMapping
from typing import Any, cast

import structlog
from structlog.typing import FilteringBoundLogger, WrappedLogger

from discovery.system.terminal import printable

Emit = Callable[[int, str], None]
"""Takes the level of a line, as `logging` numbers levels, and its text. From any thread."""


def to_logging(level: int, text: str) -> None:
    """Write a line to the logger `discovery`."""
    logging.getLogger("discovery").log(level, "%s", text)


def library_log(emit: Emit = to_logging) -> FilteringBoundLogger:
    """Return a log for the rooms of the core that hands each line, rendered, to `emit`."""
    return cast(
        "FilteringBoundLogger",
        structlog.wrap_logger(
            _Sink(emit),
            processors=[structlog.processors.format_exc_info, _rendered],
            wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        ),
    )


class _Sink:
    """A wrapped logger: a method for each level."""

    def __init__(self, emit: Emit) -> None:
        self._emit = emit

    def info(self, text: str) -> None:
        self._emit(logging.INFO, text)

    def warning(self, text: str) -> None:
        self._emit(logging.WARNING, text)

    def error(self, text: str) -> None:
        self._emit(logging.ERROR, text)

    critical = exception = error


def _rendered(_: WrappedLogger, __: str, event: MutableMapping[str, Any]) -> str:
    text = str(event.pop("event", ""))
    return " ".join([text, *(f"{key}={printable(str(value))}" for key, value in event.items())])
