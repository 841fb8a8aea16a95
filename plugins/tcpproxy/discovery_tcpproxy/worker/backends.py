"""One service's backends, as a listener in a worker sees them: whose turn it is, who is set aside, and counters. Pure.

Every backend that `Backends.next` hands out is dialled and comes back in exactly one way: by `failed`, by `abandoned`,
or by `connected` and then, in the end, `closed`.

A backend that cannot be connected to is set aside: for a second at first, then for twice as long each time, for half
a minute at most, a fifth either way at random. Then one connection, whose turn it is anyway, probes it; others come
once that has succeeded. Where every backend is set aside, none waits that long: each is tried again, by one connection
at a time, a quarter of a second after it failed, and who failed first comes first. So what recovers is used soon,
connections that are held are not spent on what is down, and nothing spins.

Times are seconds of one monotonic clock, which is passed in.
"""

import heapq
import random
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from enum import Enum
from typing import Any

from discovery_tcpproxy.worker.balance import make

FIRST_DELAY = 1.0
MOST_DELAY = 30.0
LAST_RESORT_DELAY = 0.25


class State(Enum):
    """The state of a backend by its last connects."""

    USABLE = "usable"
    SET_ASIDE = "set aside"
    DUE = "due"  # the next connection whose turn it is probes it
    PROBED = "probed"


_USABLE = State.USABLE


class Backend:
    """A host and a port, their settings, and the history of connections there. Compared by identity.

    `host` is an IP address, or a name with addresses. `address` is dialled first, then each of `others` in turn if the
    connection fails.
    """

    __slots__ = (
        "address",
        "addresses",
        "connect_failures",
        "connect_seconds",
        "connected",
        "departures",
        "dialling",
        "draining",
        "failed_at",
        "failures",
        "gone",
        "host",
        "id",
        "open",
        "others",
        "port",
        "rank",
        "received",
        "sent",
        "state",
        "until",
        "weight",
    )

    def __init__(self, id_: str, host: str, port: int, weight: int = 1, draining: bool = False) -> None:
        """Take a backend; the host is its address until `aim` gives others."""
        self.id = id_
        self.host = host
        self.port = port
        self.weight = weight
        self.draining = draining
        self.rank = 0  # its place in the list
        self.gone = False  # no longer registered
        self.departures = 0  # how often it has left
        self.addresses: tuple[str, ...] = ()
        self.address: tuple[str, int]
        self.others: tuple[tuple[str, int], ...]
        self.aim((host,))
        self.open = 0  # connections, with those that are being dialled
        self.dialling = 0
        self.connected = 0  # ever
        self.connect_failures = 0
        self.connect_seconds = 0.0
        self.received = 0  # bytes from it
        self.sent = 0  # bytes to it
        self.state = State.USABLE
        self.failures = 0  # in a row
        self.failed_at = 0.0
        self.until = 0.0

    def aim(self, addresses: Iterable[str]) -> None:
        """Take its IP addresses, in the order in which to dial them; the same again change nothing."""
        if self.addresses != (addresses := tuple(addresses)):
            self.addresses = addresses
            self.address, *others = [(address, self.port) for address in addresses]
            self.others = tuple(others)

    def prefer(self, address: tuple[str, int]) -> None:
        """Dial this one of its addresses first from now on."""
        if address in self.others:
            others = (self.address, *(each for each in self.others if each != address))
            self.address, self.others = address, others

    @property
    def takes(self) -> bool:
        """Whether it is meant to take new connections."""
        return self.weight > 0 and not self.draining and not self.gone


class Backends:
    """The backends of one service."""

    __slots__ = ("_aside", "_by_key", "_chooser", "_due", "_leaving", "_offered", "_random", "_serial")

    def __init__(self, balance: str = "roundrobin", *, random: Callable[[], float] = random.random) -> None:
        """Begin with none. `balance` is one of `balance.KINDS`; `random` draws from [0, 1)."""
        self._chooser = make(balance)
        self._random = random
        self._by_key: dict[tuple[str, str, int], Backend] = {}
        self._leaving: dict[tuple[str, str, int], Backend] = {}  # gone, but with connections
        self._offered: set[Backend] = set()
        self._aside: dict[Backend, None] = {}  # who failed first comes first
        self._due: list[tuple[float, int, Backend]] = []
        self._serial = 0

    def __iter__(self) -> Iterator[Backend]:
        """Those that are registered."""
        return iter(self._by_key.values())

    def __len__(self) -> int:
        """The number of registered backends."""
        return len(self._by_key)

    def balance(self, kind: str) -> None:
        """Choose in another way from now on."""
        self._chooser = make(kind)
        for backend in self._offered:
            self._chooser.add(backend)

    def update(self, records: Iterable[Mapping[str, Any]]) -> list[Backend]:
        """Take the complete list, as it goes over the wire; return those that have left.

        What is known of a backend stays while its id, host and port do, and any of its addresses. One that comes back
        while connections to it are open is the same object again.
        """
        before, self._by_key = self._by_key, {}
        for rank, record in enumerate(records):
            key = record["id"], record["host"], record["port"]
            addresses = record.get("addresses") or (record["host"],)
            backend = self._known(key, before, addresses) or Backend(*key)
            backend.aim(addresses)
            was = backend.takes, backend.weight
            backend.weight, backend.draining, backend.gone = record["weight"], record["draining"], False
            backend.rank = rank
            self._by_key[key] = backend
            if was != (backend.takes, backend.weight):
                self._withhold(backend)
            self._place(backend)
        for key, backend in before.items():
            backend.gone = True
            backend.departures += 1
            backend.failures, backend.state = 0, State.USABLE
            self._aside.pop(backend, None)
            self._place(backend)
            if backend.open:
                self._leaving[key] = backend
        return list(before.values())

    def next(self, client: str, tried: Collection[Backend], now: float, *, last_resort: bool = False) -> Backend | None:
        """The backend to dial for the client at an IP address, which has `tried` some; None: hold it, or give up.

        A connection that was held may start over, with none tried. `last_resort` is for a connection that cannot be
        held, or no longer: instead of none, the backend that failed first is tried.
        """
        if self._due and self._due[0][0] <= now:
            self._make_due(now)
        backend = self._chooser.choose(client, tried)
        if backend is None:
            backend = self._of_those_aside(tried, now, last_resort=last_resort)
            if backend is None:
                return None
        if backend.state is not _USABLE:
            backend.state = State.PROBED
            self._aside.pop(backend, None)
            self._place(backend)
        backend.open += 1
        backend.dialling += 1
        return backend

    def connected(self, backend: Backend) -> bool:
        """Note that a dialled backend was connected to. True if it was not usable: those who are held may come."""
        backend.dialling -= 1
        backend.connected += 1
        if backend.state is _USABLE:
            return False
        backend.state, backend.failures = _USABLE, 0
        self._aside.pop(backend, None)
        self._place(backend)
        return backend.takes

    def failed(self, backend: Backend, now: float) -> None:
        """Note that a dialled backend refused, or did not answer in time: set it aside."""
        backend.dialling -= 1
        backend.connect_failures += 1
        self.closed(backend)
        # Of many that were dialled together only the first to fail makes it wait longer.
        if backend.gone or backend.state is State.SET_ASIDE:
            return
        delay = min(FIRST_DELAY * 2 ** min(backend.failures, 16), MOST_DELAY)
        backend.failures += 1
        backend.state, backend.failed_at = State.SET_ASIDE, now
        backend.until = now + min(delay * (0.8 + 0.4 * self._random()), MOST_DELAY)
        self._aside[backend] = None
        self._serial += 1
        heapq.heappush(self._due, (backend.until, self._serial, backend))
        self._place(backend)

    def abandoned(self, backend: Backend) -> None:
        """Note that dialling a backend was given up without its fault, as when the client has left."""
        backend.dialling -= 1
        self.closed(backend)
        if backend.state is State.PROBED and not backend.dialling:
            backend.state = State.DUE
            self._place(backend)

    def closed(self, backend: Backend) -> None:
        """Note that a connection to a backend has ended."""
        backend.open -= 1
        if backend in self._offered:
            self._chooser.released(backend)
        elif backend.gone and not backend.open:
            key = backend.id, backend.host, backend.port
            if self._leaving.get(key) is backend:
                del self._leaving[key]

    def usable_at(self, now: float) -> float | None:
        """When to call `next` for those who are held: `now`, later, or None: once something has changed.

        That is after `update`, after `connected` has said so, and after `failed` or `abandoned`.
        """
        if self._due and self._due[0][0] <= now:
            self._make_due(now)
        if self._offered:
            return now
        return next((max(now, b.failed_at + LAST_RESORT_DELAY) for b in self._aside if b.takes), None)

    def _known(
        self, key: tuple[str, str, int], before: dict[tuple[str, str, int], Backend], addresses: Iterable[str]
    ) -> Backend | None:
        """The backend of this key that has one of these addresses. One that has none of them any more has left."""
        for known in (before, self._by_key, self._leaving):
            backend = known.get(key)
            if backend is not None and not set(addresses).isdisjoint(backend.addresses):
                if known is not self._by_key:
                    del known[key]
                return backend
        return None

    def _make_due(self, now: float) -> None:
        while self._due and self._due[0][0] <= now:
            until, _, backend = heapq.heappop(self._due)
            if backend in self._aside and backend.until == until:
                del self._aside[backend]
                backend.state = State.DUE
                self._place(backend)

    def _of_those_aside(self, tried: Collection[Backend], now: float, *, last_resort: bool) -> Backend | None:
        if self._offered and not last_resort:
            return None
        for backend in self._aside:
            if backend.takes and backend not in tried:
                return backend if last_resort or backend.failed_at + LAST_RESORT_DELAY <= now else None
        if last_resort:
            # Somebody else is finding out whether it is back.
            probed = (each for each in self if each.state is State.PROBED and each.takes and each not in tried)
            return next(probed, None)
        return None

    def _place(self, backend: Backend) -> None:
        """Let it be chosen if it should be, and only then."""
        if backend.takes and backend.state in (State.USABLE, State.DUE):
            if backend not in self._offered:
                self._offered.add(backend)
                self._chooser.add(backend)
        else:
            self._withhold(backend)

    def _withhold(self, backend: Backend) -> None:
        if backend in self._offered:
            self._offered.discard(backend)
            self._chooser.discard(backend)
