"""epoll, timers, and work that waits for the end of a batch of events. Knows nothing of what it is for."""

import heapq
import itertools
import select
import time
from collections.abc import Callable, Hashable
from typing import Generic, Protocol, TypeVar

BATCH = 64
"""Events taken from the kernel at once: room for more costs a slower malloc each time."""
_SOONEST = 0.02
"""Seconds between two looks at deadlines of one kind."""

H = TypeVar("H", bound=Hashable)


class Handler(Protocol):
    """Receives the events of a descriptor."""

    def event(self, events: int) -> None:
        """Deal with what epoll reported."""

    def failed(self, error: Exception) -> None:
        """`event` raised what it should not have: give up what this is for, and tell."""


class Busy(Protocol):
    """Has more work than one turn allows."""

    def turn(self) -> None:
        """Do one turn's worth of work."""

    def failed(self, error: Exception) -> None:
        """`turn` raised what it should not have."""


class Settles(Protocol):
    """Has something to finish at the end of the batch."""

    def settle(self) -> None:
        """Finish it. Must not raise."""


class Timer:
    """A call that is due at some time, unless cancelled."""

    __slots__ = ("action",)

    def __init__(self, action: Callable[[], None]) -> None:
        """Call `action`."""
        self.action: Callable[[], None] | None = action

    def cancel(self) -> None:
        """Do not call it."""
        self.action = None


class Loop:
    """Timers that are due, then descriptors' events, in batches, then turns, then what is deferred, and over again.

    A descriptor must be closed in `settle` only, when no event of the batch can be meant for it any more: the kernel
    gives its number to the next one at once.
    """

    def __init__(self, broken: Callable[[Exception], None]) -> None:
        """Prepare. What a timer raises goes to `broken`."""
        self._epoll = select.epoll()
        self._timers: list[tuple[float, int, Timer]] = []
        self._numbers = itertools.count()
        self._broken = broken
        self._stopped = False
        self.handlers: dict[int, Handler] = {}
        self.busy: list[Busy] = []
        self.deferred: list[Settles] = []
        self.now = time.monotonic()

    def add(self, descriptor: int, handler: Handler, events: int) -> None:
        """Report events of a descriptor to `handler`."""
        self.handlers[descriptor] = handler
        self._epoll.register(descriptor, events)

    def modify(self, descriptor: int, events: int) -> None:
        """Report these events from now on."""
        self._epoll.modify(descriptor, events)

    def remove(self, descriptor: int) -> None:
        """Report nothing of a descriptor any more; for one about to be closed, `forget` is enough."""
        if self.handlers.pop(descriptor, None) is not None:
            self._epoll.unregister(descriptor)

    def forget(self, descriptor: int) -> None:
        """Report nothing of a descriptor that will be closed when the batch is settled."""
        self.handlers.pop(descriptor, None)

    def call_later(self, seconds: float, action: Callable[[], None]) -> Timer:
        """Call `action` in some seconds."""
        timer = Timer(action)
        heapq.heappush(self._timers, (time.monotonic() + seconds, next(self._numbers), timer))
        return timer

    def stop(self) -> None:
        """Return from `run` when this batch is settled."""
        self._stopped = True

    def run(self) -> None:
        """Serve until stopped."""
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
                    except Exception as error:  # noqa: BLE001 - one connection's trouble is not the others'
                        handler.failed(error)
            if busy:
                turns = busy.copy()
                busy.clear()
                for each in turns:
                    try:
                        each.turn()
                    except Exception as error:  # noqa: BLE001 - as above
                        each.failed(error)
            if deferred:
                for one in deferred:
                    one.settle()
                deferred.clear()

    def _fire(self) -> None:
        while self._timers and self._timers[0][0] <= self.now:
            timer = heapq.heappop(self._timers)[2]
            if timer.action is not None:
                try:
                    timer.action()
                except Exception as error:  # noqa: BLE001 - the other timers are due all the same
                    self._broken(error)


class Deadlines(Generic[H]):
    """What has to happen to each of many things within some seconds, at the cost of a dict entry; in order of arrival.

    One timer for all of them, as nearly all are discarded long before they are due.
    """

    def __init__(self, loop: Loop, seconds: float, expired: Callable[[H], None]) -> None:
        """`expired` is called with each thing that is not discarded within `seconds`."""
        self._loop = loop
        self._expired = expired
        self._due: dict[H, float] = {}
        self._timer: Timer | None = None
        self._when = 0.0
        self.seconds = seconds

    def __len__(self) -> int:
        """The number of things that wait."""
        return len(self._due)

    def __contains__(self, thing: object) -> bool:
        """Whether it waits."""
        return thing in self._due

    def add(self, thing: H, due: float | None = None) -> float:
        """Wait for `thing`; returns when it is due: from now on, unless told."""
        if due is None:
            due = self._loop.now + self.seconds
        self._due[thing] = due
        if self._timer is None or due < self._when:
            self._arm(due)
        return due

    def discard(self, thing: H) -> None:
        """It has happened."""
        self._due.pop(thing, None)

    def first(self) -> H | None:
        """The thing that has waited longest."""
        return next(iter(self._due), None)

    def all(self) -> list[H]:
        """All that wait, the longest first."""
        return list(self._due)

    def _look(self) -> None:
        self._timer = None
        now = self._loop.now
        late = [thing for thing, due in self._due.items() if due <= now]
        for thing in late:
            del self._due[thing]
        if self._due:
            self._arm(min(self._due.values()))
        for thing in late:
            self._expired(thing)

    def _arm(self, due: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._when = due
        self._timer = self._loop.call_later(max(_SOONEST, due - self._loop.now), self._look)
