"""Host names looked up as the machine looks names up, on a bounded number of threads of their own.

`getaddrinfo` knows the hosts file, search domains and every other setting of the machine. A call may take half a minute
and cannot be interrupted: on asyncio's own few threads a call would block other work, and the end of the process.
"""

import asyncio
import math
import socket
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Final, Protocol

from discovery.addresses.kinds import family_of, is_destination
from discovery.system.asyncio_tools import wait_for_tasks

Found = list[tuple[int, str]]

_SLOW: Final = 1.0
"""Seconds after which a lookup counts as slow: a name server that answers takes less."""
_LOOK_AGAIN: Final = 0.25
"""Seconds between two attempts to begin queued lookups, beside the attempt at the end of every other lookup."""
_PATIENCE: Final = 0.5
"""Seconds that a lookup has if an earlier lookup of the name was answered: then the last answer stands."""
_MOST_KNOWN: Final = 10_000
"""Names of which anything is remembered: a bound on memory, far above what a daemon follows."""


class Lookup(Protocol):
    """Looks up host names. From any thread and event loop."""

    async def __call__(self, host: str) -> Found:
        """Return the family (`socket.AF_INET` or `AF_INET6`) and the text of each IP address of `host`.

        Raises OSError if the name cannot be looked up, or does not exist.
        """


@dataclass(eq=False)
class _Call:
    host: str
    is_slow: bool
    queue: "dict[str, _Call] | None"
    """Where it waits; None once it is under way."""
    answer: "Future[Found]" = field(default_factory=Future)
    callers: int = 0
    begun: float = 0.0

    def __post_init__(self) -> None:
        self.answer.set_running_or_notify_cancel()  # from now on no caller can cancel what the others share


class Lookups:
    """Looks up host names on at most `threads` threads. For any number of event loops, from any thread.

    A name whose lookup hangs delays no other name, by these rules:

    - Concurrent lookups of one name share one call.
    - Names whose last lookup was slow have half of the threads, in the order of asking.
    - All other names share a quarter of those threads on which nothing slow is under way. However many of them hang at
      once, the next name has a thread within a second: until the last thread is taken, 8 s later (for 16 threads).
    - Of these, names that were answered quickly come first, in the order of asking. Names without an answer so far come
      next, the newest first. Asking for such a name again does not make it newer.

    While anything is queued, one more thread looks whether it can be begun. The threads are daemon threads: an
    interpreter that exits waits for none of them.
    """

    def __init__(self, threads: int) -> None:
        """Start nothing yet."""
        self._threads = threads
        self._lock = threading.Lock()
        self._quick: dict[str, _Call] = {}
        self._new: dict[str, _Call] = {}
        self._slow: dict[str, _Call] = {}
        self._under_way: dict[str, _Call] = {}
        self._was_slow: dict[str, bool] = {}  # by name, the last one looked up at the end
        self._first_asked: dict[str, int] = {}  # by name without an answer so far: its place in the order of asking
        self._places = count()
        self._is_watched = False  # what is queued, by a thread

    async def __call__(self, host: str) -> Found:
        """The family and text of each of a host's addresses, in the order of preference of RFC 6724. Raises OSError.

        A lookup that all callers have cancelled is not begun.
        """
        if (family := family_of(host)) is not None:
            return [(socket.AF_INET if family == 4 and ":" not in host else socket.AF_INET6, host)]
        with self._lock:
            call = self._under_way.get(host) or self._queued(host)
            call.callers += 1
        answer = asyncio.wrap_future(call.answer)
        try:
            while not self._is_looked_after(call):
                await wait_for_tasks([answer], _LOOK_AGAIN)
            return await answer
        finally:
            answer.cancel()
            with self._lock:
                call.callers -= 1
                if not call.callers and call.queue is not None:
                    del call.queue[host]

    def _queued(self, host: str) -> _Call:
        for queue in (self._quick, self._new, self._slow):
            if host in queue:
                return queue[host]
        is_slow = self._was_slow.get(host)
        queue = self._new if is_slow is None else self._slow if is_slow else self._quick
        call = queue[host] = _Call(host, bool(is_slow), queue)
        if is_slow is None and host not in self._first_asked:
            self._first_asked[host] = next(self._places)
            _keep_at_most(_MOST_KNOWN, self._first_asked)
        return call

    def _is_looked_after(self, call: _Call) -> bool:
        """Begin what can be begun. Whether the call is begun, or a thread is there that will begin it."""
        with self._lock:
            self._begin()
            if call.queue is None or self._is_watched:
                return True
            # One thread for all: thousands of callers that each look again would keep a processor busy.
            try:
                threading.Thread(target=self._watch, name="lookups", daemon=True).start()
            except RuntimeError:  # as in `_begin`
                return False
            self._is_watched = True
            return True

    def _watch(self) -> None:
        """Begin what is queued when a thread is free for it, until nothing is queued."""
        while True:
            time.sleep(_LOOK_AGAIN)
            with self._lock:
                self._begin()
                if not (self._quick or self._new or self._slow):
                    self._is_watched = False
                    return

    def _begin(self) -> None:
        """Begin every lookup for which there is a thread."""
        while (call := self._next()) is not None:
            try:
                threading.Thread(target=self._work, args=(call,), name="lookup", daemon=True).start()
            except RuntimeError:  # the system cannot start a thread now; the callers that wait try again
                return
            if call.queue is not None:
                del call.queue[call.host]
                call.queue = None
            call.begun = time.monotonic()
            self._under_way[call.host] = call

    def _next(self) -> _Call | None:
        if len(self._under_way) >= self._threads:
            return None
        a_while_ago = time.monotonic() - _SLOW
        slow = sum(call.is_slow or call.begun < a_while_ago for call in self._under_way.values())
        others = len(self._under_way) - slow
        if others < math.ceil((self._threads - slow) / 4):
            if self._quick:
                return next(iter(self._quick.values()))
            if self._new:
                return self._new[max(self._new, key=lambda host: self._first_asked.get(host, 0))]
        if self._slow and slow < math.ceil(self._threads / 2):
            return next(iter(self._slow.values()))
        return None

    def _work(self, call: _Call) -> None:
        found = _look_up(call.host)
        with self._lock:
            del self._under_way[call.host]
            self._was_slow.pop(call.host, None)
            self._was_slow[call.host] = time.monotonic() - call.begun > _SLOW
            _keep_at_most(_MOST_KNOWN, self._was_slow)
            self._first_asked.pop(call.host, None)
            self._begin()
        if isinstance(found, OSError):
            call.answer.set_exception(found)
        else:
            call.answer.set_result(found)


class RememberedLookups:
    """Looks up host names; while the name servers do not answer, the last answer stands.

    For any number of event loops, from any thread.
    """

    def __init__(self, threads: int = 64) -> None:
        """Look nothing up yet."""
        self._lookup = Lookups(threads)
        self._last: dict[str, Found] = {}

    async def __call__(self, host: str) -> Found:
        """The family and text of each of a host's addresses. Raises OSError; a name that does not exist is one."""
        last = self._last.get(host)
        try:
            async with asyncio.timeout(None if last is None else _PATIENCE):
                found = await self._lookup(host)
        except OSError as error:  # TimeoutError is one
            if last is not None and (isinstance(error, TimeoutError) or error.errno == socket.EAI_AGAIN):
                return last
            self._last.pop(host, None)
            raise
        if last is None and len(self._last) >= _MOST_KNOWN:
            self._last.clear()
        self._last[host] = found
        return found


def _keep_at_most(number: int, names: dict[str, Any]) -> None:
    if len(names) > number:
        del names[next(iter(names))]


def _look_up(host: str) -> Found | OSError:
    try:
        infos = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError as error:
        return error
    except Exception as error:  # noqa: BLE001 - a UnicodeError, say, for what is not a name
        return OSError(f"{host!r} cannot be looked up: {error}")
    found = [(int(family), str(address[0])) for family, _, _, _, address in infos]
    # As of the hosts of records: a name server may name 0.0.0.0 for what it blocks, which would be this machine.
    usable = [(family, address) for family, address in found if is_destination(address)]
    return usable or OSError(f"its only address is {found[0][1]}, which cannot be connected to")
