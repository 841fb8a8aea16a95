"""Choosing a backend: round robin, least connections, random of two, source hash, the first in the list. Pure; no
choice but that one, and the first of a client by source hash, takes longer than O(log n).

A chooser knows the backends that may be chosen now; `add` and `discard` tell it which.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Callable, Collection
from itertools import accumulate
from operator import attrgetter
from typing import TYPE_CHECKING, Protocol

from discovery_tcpproxy.worker.access import plain

if TYPE_CHECKING:
    from discovery_tcpproxy.worker.backends import Backend

_STRIDE = 1 << 32  # of a backend of weight 1
_GOLDEN = 2654435769  # 2**32 by the golden ratio: multiples of it spread evenly
_PRIME = (1 << 61) - 1
_DRAWN = 1 << 53
_REMEMBERED = 8192
_DRAWS = 8
_DEBRIS = 64
_RANK = attrgetter("rank")


class Chooser(Protocol):
    """Chooses among backends of a positive weight."""

    def add(self, backend: Backend) -> None:
        """Let a backend be chosen. One that is there already is added again with its present weight."""

    def discard(self, backend: Backend) -> None:
        """Let a backend be chosen no longer, if it may be."""

    def choose(self, client: str, tried: Collection[Backend] = ()) -> Backend | None:
        """One that is not among `tried` (a few) for the client at an IP address, or None if there is none."""

    def released(self, backend: Backend) -> None:
        """Note that a backend's `open` has fallen."""


def make(kind: str) -> Chooser:
    """A chooser of one of `KINDS`. Raises KeyError if it is none."""
    return _KINDS[kind]()


class _Queue:
    """Weighted round robin: whose turn it is by stride scheduling (Waldspurger and Weihl, 1995), on a heap.

    In each W choices, W the sum of the weights, each backend is chosen as often as its weight says, and the turns begin
    at phases that are far apart: as smooth as nginx's round robin, which takes O(n) for each choice.
    """

    def __init__(self) -> None:
        """Begin with none."""
        # Each backend's newest entry is the one that counts: (load, turn, serial, backend).
        self._heap: list[tuple[float, int, int, Backend]] = []
        self._serials: dict[Backend, int] = {}
        self._turns: dict[Backend, int] = {}
        self._serial = 0
        self._now = 0

    def _load(self, backend: Backend) -> float:
        return 0.0

    def add(self, backend: Backend) -> None:
        phase = self._serial * _GOLDEN % _STRIDE
        self._turns[backend] = self._now + phase // backend.weight
        self._push(backend)

    def discard(self, backend: Backend) -> None:
        self._serials.pop(backend, None)
        self._turns.pop(backend, None)

    def choose(self, client: str, tried: Collection[Backend] = ()) -> Backend | None:
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
                # Who was not chosen for long, being full, does not make up for it.
                self._now = max(turn, self._now)
                self._serials[backend] = self._serial = self._serial + 1
                turn = self._turns[backend] = self._now + _STRIDE // backend.weight
                heapq.heapreplace(heap, (load, turn, self._serial, backend))
                break
        for entry in passed:
            heapq.heappush(heap, entry)
        return chosen

    def released(self, backend: Backend) -> None:
        pass

    def _push(self, backend: Backend) -> None:
        self._serials[backend] = self._serial = self._serial + 1
        heapq.heappush(self._heap, (self._load(backend), self._turns[backend], self._serial, backend))
        if len(self._heap) > 2 * len(self._serials) + _DEBRIS:
            self._heap = [entry for entry in self._heap if self._serials.get(entry[3]) == entry[2]]
            heapq.heapify(self._heap)


class _LeastConnections(_Queue):
    """The backend with the fewest connections for its weight; equal ones take turns, as in round robin."""

    def _load(self, backend: Backend) -> float:
        return backend.open / backend.weight

    def released(self, backend: Backend) -> None:
        if backend in self._turns:
            self._push(backend)


class _RandomOfTwo:
    """Two drawn at random by weight, and the one with fewer connections for its weight (Mitzenmacher, 1996)."""

    def __init__(self) -> None:
        """Begin with none."""
        self._backends: list[Backend] = []
        self._sums: list[int] | None = None

    def add(self, backend: Backend) -> None:
        self.discard(backend)
        self._backends.append(backend)

    def discard(self, backend: Backend) -> None:
        self._sums = None
        if backend in self._backends:
            self._backends.remove(backend)

    def choose(self, client: str, tried: Collection[Backend] = ()) -> Backend | None:
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

    def released(self, backend: Backend) -> None:
        pass


class _Source:
    """The client's address decides, by rendezvous hashing (Thaler and Ravishankar, 1998; weights: Schindelhauer, 2005).

    The same for every worker, restart and machine. A backend that comes or goes moves the clients that it wins or had,
    and no others. O(n) for a client, then remembered until the backends change.
    """

    def __init__(self) -> None:
        """Begin with none."""
        from hashlib import blake2b  # with OpenSSL: workers that need none start without it

        self._hash = blake2b
        self._factors: dict[Backend, tuple[int, int]] = {}
        self._remembered: dict[str, Backend] = {}

    def add(self, backend: Backend) -> None:
        self._remembered.clear()
        seed = self._hash(f"{backend.id} {backend.host} {backend.port}".encode(), digest_size=16).digest()
        self._factors[backend] = int.from_bytes(seed[:8]) % (_PRIME - 1) + 1, int.from_bytes(seed[8:]) % _PRIME

    def discard(self, backend: Backend) -> None:
        self._remembered.clear()
        self._factors.pop(backend, None)

    def choose(self, client: str, tried: Collection[Backend] = ()) -> Backend | None:
        chosen = self._remembered.get(client)
        if chosen is not None and chosen not in tried:
            return chosen
        digest = self._hash(plain(client).encode(), digest_size=8).digest()
        number = int.from_bytes(digest) % _PRIME
        best = -1.0
        chosen = None
        for backend, (factor, summand) in self._factors.items():
            if backend not in tried:
                drawn = ((number * factor + summand) % _PRIME >> 8 | 1) / _DRAWN  # between 0 and 1, neither of them
                if (score := -backend.weight / math.log(drawn)) > best:
                    best, chosen = score, backend
        if chosen is not None and not tried:
            if len(self._remembered) >= _REMEMBERED:
                self._remembered.clear()
            self._remembered[client] = chosen
        return chosen

    def released(self, backend: Backend) -> None:
        pass


class _First:
    """The first in the list; the others stand in for it, and weights count for nothing. O(n): such lists are short."""

    def __init__(self) -> None:
        """Begin with none."""
        self._backends: dict[Backend, None] = {}

    def add(self, backend: Backend) -> None:
        self._backends[backend] = None

    def discard(self, backend: Backend) -> None:
        self._backends.pop(backend, None)

    def choose(self, client: str, tried: Collection[Backend] = ()) -> Backend | None:
        return min((each for each in self._backends if each not in tried), key=_RANK, default=None)

    def released(self, backend: Backend) -> None:
        pass


_KINDS: dict[str, Callable[[], Chooser]] = {
    "roundrobin": _Queue,
    "leastconn": _LeastConnections,
    "random": _RandomOfTwo,
    "source": _Source,
    "first": _First,
}
KINDS = tuple(_KINDS)
