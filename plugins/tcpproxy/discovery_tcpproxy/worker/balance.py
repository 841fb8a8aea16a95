"""Load balancing algorithms: round robin, least connections, random of two, source hash, first in the list. Pure.

A balancer selects among the backends that `add` and `discard` have made available. A selection takes O(log n), except
for `first` and for the first connection of a client with `source`, which take O(n).
"""

import heapq
import math
import random
from collections.abc import Callable, Collection
from itertools import accumulate
from operator import attrgetter
from typing import Protocol

from discovery_tcpproxy.worker.access import plain
from discovery_tcpproxy.worker.upstream import Upstream

_STRIDE = 1 << 32
"""Virtual time between two turns of a backend of weight 1: divisible by every weight with a negligible remainder."""
_GOLDEN = 2654435769
"""2**32 divided by the golden ratio: its multiples modulo 2**32 are spread evenly, and so are the first turns."""
_PRIME = (1 << 61) - 1
"""Modulus of the source hash: a Mersenne prime above 2**53, so that a float between 0 and 1 can have every value."""
_DRAWN = 1 << 53
"""Number of values that a draw of the source hash has: the precision of a float, in bits, is 53."""
_REMEMBERED = 8192
"""Client addresses whose backend is cached at most, some hundred KiB; then the cache starts over."""
_DRAWS = 8
"""Draws for a second backend that differs from the first: with one heavy backend the second draw rarely succeeds."""
_DEBRIS = 64
"""Outdated heap entries that are tolerated before the heap is rebuilt, besides one for each backend."""
_RANK = attrgetter("rank")


class Balancer(Protocol):
    """Selects among backends of a positive weight."""

    def add(self, backend: Upstream) -> None:
        """Make a backend available. A backend that is available already takes its present weight."""

    def discard(self, backend: Upstream) -> None:
        """Make a backend unavailable; an unknown backend is ignored."""

    def select(self, client: str, tried: Collection[Upstream] = ()) -> Upstream | None:
        """Return an available backend outside `tried` (a few) for the client at an IP address, or None."""

    def released(self, backend: Upstream) -> None:
        """Take notice that the number of open connections of a backend has fallen."""


def make_balancer(algorithm: str) -> Balancer:
    """Return a new balancer for a name in `ALGORITHMS`. Raises KeyError for another name."""
    return _ALGORITHMS[algorithm]()


class _RoundRobin:
    """Weighted round robin by stride scheduling (Waldspurger and Weihl, 1995), on a heap.

    In each W selections, W being the sum of the weights, each backend is selected as often as its weight says. The
    first turns are far apart, so that the order is nearly as smooth as that of nginx, which takes O(n) for each
    selection: a backend is selected at most ceil(w / v) + 1 times in a row, where v is the greatest other weight.
    """

    def __init__(self) -> None:
        """Create a balancer without backends."""
        # Entries are (load, turn, serial, backend); only the newest entry of a backend is valid.
        self._heap: list[tuple[float, int, int, Upstream]] = []
        self._serials: dict[Upstream, int] = {}
        self._turns: dict[Upstream, int] = {}
        self._serial = 0
        self._now = 0

    def _load(self, backend: Upstream) -> float:
        return 0.0

    def add(self, backend: Upstream) -> None:
        phase = self._serial * _GOLDEN % _STRIDE
        self._turns[backend] = self._now + phase // backend.weight
        self._push(backend)

    def discard(self, backend: Upstream) -> None:
        self._serials.pop(backend, None)
        self._turns.pop(backend, None)

    def select(self, client: str, tried: Collection[Upstream] = ()) -> Upstream | None:
        heap, serials = self._heap, self._serials
        if len(serials) == 1 and not tried:
            return next(iter(serials))
        passed = []
        chosen = None
        while heap:
            load, turn, serial, backend = heap[0]
            if serials.get(backend) != serial:
                heapq.heappop(heap)
            elif load < (more := self._load(backend)):
                heapq.heapreplace(heap, (more, turn, serial, backend))
            elif backend in tried:
                passed.append(heapq.heappop(heap))
            else:
                chosen = backend
                # A backend that was not selected for long, being full, does not catch up.
                self._now = max(turn, self._now)
                self._serials[backend] = self._serial = self._serial + 1
                turn = self._turns[backend] = self._now + _STRIDE // backend.weight
                heapq.heapreplace(heap, (load, turn, self._serial, backend))
                break
        for entry in passed:
            heapq.heappush(heap, entry)
        return chosen

    def released(self, backend: Upstream) -> None:
        pass

    def _push(self, backend: Upstream) -> None:
        self._serials[backend] = self._serial = self._serial + 1
        heapq.heappush(self._heap, (self._load(backend), self._turns[backend], self._serial, backend))
        if len(self._heap) > 2 * len(self._serials) + _DEBRIS:
            self._heap = [entry for entry in self._heap if self._serials.get(entry[3]) == entry[2]]
            heapq.heapify(self._heap)


class _LeastConnections(_RoundRobin):
    """The backend with the fewest connections per weight; backends with equal load take turns."""

    def _load(self, backend: Upstream) -> float:
        return backend.open / backend.weight

    def released(self, backend: Upstream) -> None:
        if backend in self._turns:
            self._push(backend)


class _RandomOfTwo:
    """The less loaded of two backends that are drawn at random by weight (Mitzenmacher, 1996)."""

    def __init__(self) -> None:
        """Create a balancer without backends."""
        self._backends: list[Upstream] = []
        self._sums: list[int] | None = None

    def add(self, backend: Upstream) -> None:
        self.discard(backend)
        self._backends.append(backend)

    def discard(self, backend: Upstream) -> None:
        self._sums = None
        if backend in self._backends:
            self._backends.remove(backend)

    def select(self, client: str, tried: Collection[Upstream] = ()) -> Upstream | None:
        if tried:
            left = [backend for backend in self._backends if backend not in tried]
            sums = list(accumulate(backend.weight for backend in left))
        else:
            left = self._backends
            if self._sums is None:
                self._sums = list(accumulate(backend.weight for backend in left))
            sums = self._sums
        if len(left) < 2:
            return left[0] if left else None
        one, other = random.choices(left, cum_weights=sums, k=2)  # noqa: S311 - no secret depends on it
        for _ in range(_DRAWS):
            if other is not one:
                break
            (other,) = random.choices(left, cum_weights=sums)  # noqa: S311 - no secret depends on it
        return other if other.open * one.weight < one.open * other.weight else one

    def released(self, backend: Upstream) -> None:
        pass


class _Source:
    """Rendezvous hashing of the client address (Thaler and Ravishankar, 1998; weights: Schindelhauer, 2005).

    Every worker, restart and machine selects the same backend. A backend that comes or goes moves only the clients that
    it wins or had. The selection takes O(n) for each client and is cached until the backends change.
    """

    def __init__(self) -> None:
        """Create a balancer without backends."""
        from hashlib import blake2b  # loads OpenSSL, which workers with other algorithms do not need

        self._hash = blake2b
        self._factors: dict[Upstream, tuple[int, int]] = {}
        self._remembered: dict[str, Upstream] = {}

    def add(self, backend: Upstream) -> None:
        self._remembered.clear()
        seed = self._hash(f"{backend.id} {backend.host} {backend.port}".encode(), digest_size=16).digest()
        self._factors[backend] = int.from_bytes(seed[:8]) % (_PRIME - 1) + 1, int.from_bytes(seed[8:]) % _PRIME

    def discard(self, backend: Upstream) -> None:
        self._remembered.clear()
        self._factors.pop(backend, None)

    def select(self, client: str, tried: Collection[Upstream] = ()) -> Upstream | None:
        chosen = self._remembered.get(client)
        if chosen is not None and chosen not in tried:
            return chosen
        digest = self._hash(plain(client).encode(), digest_size=8).digest()
        number = int.from_bytes(digest) % _PRIME
        best = -1.0
        chosen = None
        for backend, (factor, summand) in self._factors.items():
            if backend not in tried:
                drawn = ((number * factor + summand) % _PRIME >> 8 | 1) / _DRAWN  # between 0 and 1, both excluded
                if (score := -backend.weight / math.log(drawn)) > best:
                    best, chosen = score, backend
        if chosen is not None and not tried:
            if len(self._remembered) >= _REMEMBERED:
                self._remembered.clear()
            self._remembered[client] = chosen
        return chosen

    def released(self, backend: Upstream) -> None:
        pass


class _First:
    """The first available backend in the order of the list; weights have no effect. O(n): such lists are short."""

    def __init__(self) -> None:
        """Create a balancer without backends."""
        self._backends: dict[Upstream, None] = {}

    def add(self, backend: Upstream) -> None:
        self._backends[backend] = None

    def discard(self, backend: Upstream) -> None:
        self._backends.pop(backend, None)

    def select(self, client: str, tried: Collection[Upstream] = ()) -> Upstream | None:
        return min((each for each in self._backends if each not in tried), key=_RANK, default=None)

    def released(self, backend: Upstream) -> None:
        pass


_ALGORITHMS: dict[str, Callable[[], Balancer]] = {
    "roundrobin": _RoundRobin,
    "leastconn": _LeastConnections,
    "random": _RandomOfTwo,
    "source": _Source,
    "first": _First,
}
ALGORITHMS = tuple(_ALGORITHMS)
