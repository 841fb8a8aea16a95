"""Changes of the registry as traces: what the core and the consumers tell is put in a queue, and a thread makes spans.

A trace has a root span `change`, which lasts until every consumer has applied the change, and below it `watch`, and of
each consumer `queue` and `apply`, and `verify` below `apply`: see `Delay`.
"""

import queue
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

from opentelemetry.context import Context
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import Span, Status, StatusCode, set_span_in_context
from structlog.typing import FilteringBoundLogger

from discovery.consuming.history import Change, Delay

MOST_EVENTS = 10_000
"""Events that wait for the thread: some 2 MiB. Further ones are dropped, which the log tells."""
_MOST_OPEN = 500
"""Traces that wait for consumers, as many changes as wait for a consumer."""
OPEN_SECONDS = 60.0
"""Until a trace says that a consumer has not applied the change: its root span can be seen from then on."""
_NANOSECONDS = 1e9
"""In a second: spans have nanoseconds."""


class _Offered(NamedTuple):
    changes: Sequence[Change]
    consumers: frozenset[str]


class _Applied(NamedTuple):
    consumer: str
    number: int
    delays: Sequence[tuple[Change, Delay]]


class _Open:
    """A trace, as long as a consumer has not applied its change."""

    def __init__(self, change: Change, root: Span, waiting: Collection[str]) -> None:
        self.change = change
        self.root = root
        self.context = set_span_in_context(root, Context())
        self.waiting = set(waiting)
        self.last = change.offered  # the latest instant of a span
        self.is_told = False  # that a consumer is late

    def at(self, instant: float) -> int:
        """Return nanoseconds since 1970 for an instant of `time.monotonic()`, which, unlike them, cannot go back."""
        return int((self.change.time + instant - self.change.arrived) * _NANOSECONDS)


class Traces:
    """Makes spans of changes, on a thread of its own. `offered` and `applied` are for any thread, and never wait."""

    def __init__(
        self,
        provider: TracerProvider,
        version: str,
        log: FilteringBoundLogger,
        hurry: Callable[[], None] = lambda: None,
        open_seconds: float = OPEN_SECONDS,
        most_events: int = MOST_EVENTS,
    ) -> None:
        """Begin. `stop` ends `provider`, too, and calls `hurry` before: from then on no batch is tried twice."""
        self._provider = provider
        self._tracer = provider.get_tracer("discovery", version)
        self._log = log
        self._hurry = hurry
        self._open_seconds = open_seconds
        self._most_events = most_events
        self._events: queue.SimpleQueue[_Offered | _Applied | None] = queue.SimpleQueue()
        self._open: dict[int, _Open] = {}
        self._dropped = False
        self._thread = threading.Thread(target=self._run, name="traces", daemon=True)
        self._thread.start()

    def offered(self, changes: Sequence[Change], consumers: Iterable[str]) -> None:
        """Begin a trace for each of `changes`, which the consumers of these names are about to be offered."""
        told = [each for each in changes if not each.listing]
        if told:
            self._put(_Offered(told, frozenset(consumers)))

    def applied(self, consumer: str, number: int, delays: Sequence[tuple[Change, Delay]]) -> None:
        """Note that a consumer has applied everything up to the step `number`.

        `delays` has those of the changes that concerned the consumer.
        """
        self._put(_Applied(consumer, number, delays))

    def stop(self, seconds: float) -> None:
        """Send what is left, for so many seconds at most. Blocks."""
        self._hurry()
        self._events.put(None)
        self._thread.join(seconds)

    def _put(self, event: _Offered | _Applied) -> None:
        if self._events.qsize() < self._most_events:
            self._events.put(event)
        else:
            self._dropped = True

    def _run(self) -> None:
        while True:
            event = None
            with suppress(queue.Empty):
                event = self._events.get(timeout=self._seconds_until_late())
                if event is None:
                    break
            try:
                self._take(event)
            except Exception as error:  # noqa: BLE001 - a fault of a library of ours ends no daemon
                self._log.error("a change cannot be traced", exc_info=error)
        for each in self._open.values():
            self._end(each)
        self._provider.shutdown()

    def _take(self, event: _Offered | _Applied | None) -> None:
        if isinstance(event, _Offered):
            for change in event.changes:
                self._begin(change, event.consumers)
        elif isinstance(event, _Applied):
            self._note(event)
        if self._dropped:
            self._dropped = False
            self._log.warning("there are too many changes for all to be traced")
        self._tell_late()

    def _begin(self, change: Change, consumers: Collection[str]) -> None:
        if len(self._open) >= _MOST_OPEN:
            self._end(self._open.pop(next(iter(self._open))))
        attributes: dict[str, int | list[str]] = {
            "discovery.revision": change.revision,
            "discovery.changed": change.size,
            "discovery.backends": [each.key for each in change.named],
        }
        if change.services is not None:
            attributes["discovery.services"] = sorted(change.services)
        start = int(change.time * _NANOSECONDS)
        root = self._tracer.start_span("change", Context(), attributes=attributes, start_time=start)
        trace = _Open(change, root, consumers)
        self._span(trace, "watch", change.arrived, change.offered)
        if consumers:
            self._open[change.number] = trace
        else:
            self._end(trace)

    def _note(self, event: _Applied) -> None:
        for change, delay in event.delays:
            if (trace := self._open.get(change.number)) is not None:
                self._add(trace, event.consumer, delay)
        for number in [each for each in self._open if each <= event.number]:
            trace = self._open[number]
            trace.waiting.discard(event.consumer)
            if not trace.waiting:
                self._end(self._open.pop(number))

    def _add(self, trace: _Open, consumer: str, delay: Delay) -> None:
        begun, by = trace.change.offered + delay.queue, {"discovery.consumer": consumer}
        ended = begun + delay.apply
        trace.last = max(trace.last, ended)
        self._span(trace, "queue", trace.change.offered, begun, {**by, "discovery.failures": delay.by.failures})
        apply = self._span(trace, "apply", begun, ended, {**by, "discovery.applied_revision": delay.by.revision})
        if delay.verify is not None:  # proof comes last
            context = set_span_in_context(apply, Context())
            self._span(trace, "verify", max(begun, ended - delay.verify), ended, by, context)

    def _span(
        self,
        trace: _Open,
        name: str,
        begun: float,
        ended: float,
        attributes: Mapping[str, str | int] | None = None,
        context: Context | None = None,
    ) -> Span:
        span: Span = self._tracer.start_span(
            name, context or trace.context, attributes=attributes, start_time=trace.at(begun)
        )
        span.end(trace.at(ended))
        return span

    def _seconds_until_late(self) -> float | None:
        first = next((each for each in self._open.values() if not each.is_told), None)
        return None if first is None else max(0.0, first.change.offered + self._open_seconds - time.monotonic())

    def _tell_late(self) -> None:
        """End the root spans of changes that a consumer has not applied in time. The consumer's spans may follow."""
        now = time.monotonic()
        for each in self._open.values():
            if not each.is_told and now - each.change.offered >= self._open_seconds:
                missing = ", ".join(sorted(each.waiting))
                each.root.set_status(
                    Status(StatusCode.ERROR, f"not applied within {self._open_seconds:g} s: {missing}")
                )
                each.root.end(each.at(now))
                each.is_told = True

    def _end(self, trace: _Open) -> None:
        if not trace.is_told:
            trace.root.end(trace.at(trace.last))
