"""Event loop of a worker: epoll, timers, and work that is deferred to the end of a batch of events."""

import heapq
import itertools
import select
import time
from collections.abc import Callable, Hashable
from typing import Generic, Protocol, TypeVar

BATCH = 64
"""Events of one epoll_wait: an array for more makes each call slower, by its allocation."""
_SOONEST = 0.02
"""Seconds, at least, between two checks of a group of deadlines, so that close deadlines share a check."""

H = TypeVar("H", bound=Hashable)


class Handler(Protocol):
    """Receiver of the events of a descriptor."""

    def event(self, events: int) -> None:
        """Handle the events that epoll reported, as a bit mask."""

    def failed(self, error: Exception) -> None:
        """Handle an unexpected exception of `event`: release the descriptor and report the error."""


class Busy(Protocol):
    """Handler with work left over after its turn."""

    def run_turn(self) -> None:
        """Do a bounded amount of work."""

    def failed(self, error: Exception) -> None:
        """Handle an unexpected exception of `run_turn`."""


class Deferred(Protocol):
    """Object with work that is deferred to the end of the batch."""

    def finish(self) -> None:
        """Do the deferred work. Must not raise."""


class Timer:
    """Call that is made at a given time unless cancelled."""

    __slots__ = ("action",)

    def __init__(self, action: Callable[[], None]) -> None:
        """Create a timer that calls `action`."""
        self.action: Callable[[], None] | None = action

    def cancel(self) -> None:
        """Cancel the call."""
        self.action = None


class Loop:
    """Event loop. Each iteration runs due timers, a batch of events, the turns of busy handlers, and deferred work.

    A descriptor must be closed in deferred work only: the kernel reuses its number at once, and events of the same
    batch may still refer to the closed descriptor.
    """

    def __init__(self, on_error: Callable[[Exception], None]) -> None:
        """Create the epoll instance. Exceptions of timers are passed to `on_error`."""
        self._epoll = select.epoll()
        self._timers: list[tuple[float, int, Timer]] = []
        self._numbers = itertools.count()
        self._on_error = on_error
        self._stopped = False
        self.handlers: dict[int, Handler] = {}
        self.busy: list[Busy] = []
        self.deferred: list[Deferred] = []
        self.now = time.monotonic()

    def add(self, descriptor: int, handler: Handler, events: int) -> None:
        """Report the events of a descriptor to `handler`."""
        self.handlers[descriptor] = handler
        self._epoll.register(descriptor, events)

    def modify(self, descriptor: int, events: int) -> None:
        """Change the events that are reported of a descriptor."""
        self._epoll.modify(descriptor, events)

    def remove(self, descriptor: int) -> None:
        """Stop reporting events of a descriptor that stays open. See `forget` for others."""
        if self.handlers.pop(descriptor, None) is not None:
            self._epoll.unregister(descriptor)

    def forget(self, descriptor: int) -> None:
        """Stop reporting events of a descriptor that is closed at the end of the batch."""
        self.handlers.pop(descriptor, None)

    def call_later(self, seconds: float, action: Callable[[], None]) -> Timer:
        """Call `action` once after this number of seconds. Return the timer."""
        timer = Timer(action)
        heapq.heappush(self._timers, (time.monotonic() + seconds, next(self._numbers), timer))
        return timer

    def stop(self) -> None:
        """Let `run` return at the end of this batch."""
        self._stopped = True

    def run(self) -> None:
        """Run until `stop` is called."""
        poll, get, monotonic = self._epoll.poll, self.handlers.get, time.monotonic
        timers, busy, deferred, now = self._timers, self.busy, self.deferred, self.now
        while not self._stopped:
            wait = -1.0
            if timers:
                wait = timers[0][0] - now
                if wait <= 0.0:
                    self._fire()
                    wait = 0.0
            if busy:
                wait = 0.0
            batch = poll(wait, BATCH)
            self.now = now = monotonic()
            for descriptor, events in batch:
                handler = get(descriptor)
                if handler is not None:
                    try:
                        handler.event(events)
                    except Exception as error:  # noqa: BLE001 - an error of one handler must not affect the others
                        handler.failed(error)
            if busy:
                turns = busy.copy()
                busy.clear()
                for each in turns:
                    try:
                        each.run_turn()
                    except Exception as error:  # noqa: BLE001 - as above
                        each.failed(error)
            if deferred:
                for one in deferred:
                    one.finish()
                deferred.clear()

    def _fire(self) -> None:
        while self._timers and self._timers[0][0] <= self.now:
            timer = heapq.heappop(self._timers)[2]
            if timer.action is not None:
                try:
                    timer.action()
                except Exception as error:  # noqa: BLE001 - the other timers have to run all the same
                    self._on_error(error)


class Deadlines(Generic[H]):
    """Deadlines of many items, in the order of insertion unless sorted, at the cost of a dict entry each.

    A single timer serves all items, since nearly all are discarded long before their deadline.
    """

    def __init__(self, loop: Loop, seconds: float, expired: Callable[[H], None]) -> None:
        """Create an empty group; `expired` is called with each item that is not discarded within `seconds`."""
        self._loop = loop
        self._expired = expired
        self._due: dict[H, float] = {}
        self._timer: Timer | None = None
        self._when = 0.0
        self.seconds = seconds

    def __len__(self) -> int:
        """Return the number of items."""
        return len(self._due)

    def __contains__(self, item: object) -> bool:
        """Return True if the item has a deadline."""
        return item in self._due

    def add(self, item: H, due: float | None = None) -> float:
        """Add an item, and return its deadline: `due`, by default `seconds` from now."""
        if due is None:
            due = self._loop.now + self.seconds
        self._due[item] = due
        if self._timer is None or due < self._when:
            self._arm(due)
        return due

    def discard(self, item: H) -> None:
        """Remove an item; an unknown item is ignored."""
        self._due.pop(item, None)

    def first(self) -> H | None:
        """Return the first item in their order."""
        return next(iter(self._due), None)

    def all(self) -> list[H]:
        """Return all items in their order."""
        return list(self._due)

    def sort(self, key: Callable[[H], float]) -> None:
        """Put the items in the order of `key`. Those that are added later come last."""
        self._due = {item: self._due[item] for item in sorted(self._due, key=key)}

    def _check(self) -> None:
        self._timer = None
        now = self._loop.now
        late = [item for item, due in self._due.items() if due <= now]
        for item in late:
            del self._due[item]
        if self._due:
            self._arm(min(self._due.values()))
        for item in late:
            self._expired(item)

    def _arm(self, due: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._when = due
        self._timer = self._loop.call_later(max(_SOONEST, due - self._loop.now), self._check)
