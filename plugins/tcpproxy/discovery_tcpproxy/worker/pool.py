"""Pool of the backends of a service: selection of the next backend, and retries after failures. Pure.

Every backend that `UpstreamPool.select` returns is dialled and is returned to the pool in exactly one way: by `failed`,
by `abandoned`, or by `connected` followed in the end by `closed`.

A backend that cannot be connected to is set aside: for one second at first, then for twice as long each time, up to
half a minute, with a random deviation of a fifth. Then one connection that is assigned to the backend anyway probes it;
other connections follow once the probe has succeeded. While every backend is set aside, each is tried again by one
connection at a time, a quarter of a second after its failure, in the order of the failures. So a backend that recovers
is used soon, held connections are not spent on backends that are down, and no attempts are made in a busy loop.

Times are seconds of one monotonic clock, which the caller passes in.
"""

import heapq
import random
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

from discovery_tcpproxy.worker.balance import make_balancer
from discovery_tcpproxy.worker.upstream import Upstream, UpstreamState

FIRST_DELAY = 1.0
"""Seconds for which a backend is set aside after its first failure: a restart often takes no longer."""
MOST_DELAY = 30.0
"""Seconds for which a backend is set aside at most, so that a recovered backend is used within half a minute."""
LAST_RESORT_DELAY = 0.25
"""Seconds between two attempts at one backend while every backend is set aside: soon, without a busy loop."""
_MOST_DOUBLINGS = 16
"""Doublings of the delay that are computed at most: 2**16 s is far above MOST_DELAY already."""

_USABLE = UpstreamState.USABLE


class UpstreamPool:
    """Registered backends of a service, and backends that have left but have open connections."""

    __slots__ = ("_balancer", "_by_key", "_delays", "_leaving", "_offered", "_random", "_serial", "_set_aside")

    def __init__(self, algorithm: str = "roundrobin", *, random: Callable[[], float] = random.random) -> None:
        """Create an empty pool. `algorithm` is one of `balance.ALGORITHMS`; `random` draws from [0, 1)."""
        self._balancer = make_balancer(algorithm)
        self._random = random
        self._by_key: dict[tuple[str, str, int], Upstream] = {}
        self._leaving: dict[tuple[str, str, int], Upstream] = {}  # no longer registered, with open connections
        self._offered: set[Upstream] = set()
        self._set_aside: dict[Upstream, None] = {}  # in the order of the failures
        self._delays: list[tuple[float, int, Upstream]] = []
        self._serial = 0

    def __iter__(self) -> Iterator[Upstream]:
        """Iterate over the registered backends."""
        return iter(self._by_key.values())

    def __len__(self) -> int:
        """Return the number of registered backends."""
        return len(self._by_key)

    def set_algorithm(self, algorithm: str) -> None:
        """Select by another of `balance.ALGORITHMS` from now on."""
        self._balancer = make_balancer(algorithm)
        for backend in self._offered:
            self._balancer.add(backend)

    def update(self, records: Iterable[Mapping[str, Any]]) -> list[Upstream]:
        """Replace the registered backends by the complete list of the daemon; return the backends that have left.

        A backend keeps its history as long as id, host, port and at least one address remain. A backend that returns
        while connections to it are open is the same object again.
        """
        before, self._by_key = self._by_key, {}
        for rank, record in enumerate(records):
            key = record["id"], record["host"], record["port"]
            addresses = record.get("addresses") or (record["host"],)
            backend = self._find(key, before, addresses) or Upstream(*key)
            backend.set_addresses(addresses)
            was = backend.accepts_new, backend.weight
            backend.weight, backend.draining, backend.gone = record["weight"], record["draining"], False
            backend.rank = rank
            self._by_key[key] = backend
            if was != (backend.accepts_new, backend.weight):
                self._withdraw(backend)
            self._update_offer(backend)
        for key, backend in before.items():
            backend.gone = True
            backend.departures += 1
            backend.failures, backend.state = 0, UpstreamState.USABLE
            self._set_aside.pop(backend, None)
            self._update_offer(backend)
            if backend.open:
                self._leaving[key] = backend
        return list(before.values())

    def select(
        self, client: str, tried: Collection[Upstream], now: float, *, last_resort: bool = False
    ) -> Upstream | None:
        """Return the backend to dial for the client at an IP address, or None if the connection has to wait or to fail.

        `tried` are the backends that the connection has already tried; a connection that was held starts over with
        none. With `last_resort`, for a connection that cannot be held, the backend that failed first is returned in
        place of None.
        """
        if self._delays and self._delays[0][0] <= now:
            self._make_due(now)
        backend = self._balancer.select(client, tried)
        if backend is None:
            backend = self._select_set_aside(tried, now, last_resort=last_resort)
            if backend is None:
                return None
        if backend.state is not _USABLE:
            backend.state = UpstreamState.PROBED
            self._set_aside.pop(backend, None)
            self._update_offer(backend)
        backend.open += 1
        backend.dialling += 1
        return backend

    def connected(self, backend: Upstream) -> bool:
        """Record a successful connection attempt. Return True if the backend has become usable for held connections."""
        backend.dialling -= 1
        backend.connected += 1
        if backend.state is _USABLE:
            return False
        backend.state, backend.failures = _USABLE, 0
        self._set_aside.pop(backend, None)
        self._update_offer(backend)
        return backend.accepts_new

    def failed(self, backend: Upstream, now: float, reason: str = "") -> None:
        """Record that a backend refused a connection or did not answer in time, and set the backend aside.

        `reason` is what the kernel says of the attempt, for reports.
        """
        backend.dialling -= 1
        backend.connect_failures += 1
        self.closed(backend)
        # Of attempts that were made at the same time only the first failure extends the delay.
        if backend.gone or backend.state is UpstreamState.SET_ASIDE:
            return
        delay = min(FIRST_DELAY * 2 ** min(backend.failures, _MOST_DOUBLINGS), MOST_DELAY)
        backend.failures += 1
        backend.reason = reason
        backend.state, backend.failed_at = UpstreamState.SET_ASIDE, now
        backend.until = now + min(delay * (0.8 + 0.4 * self._random()), MOST_DELAY)
        self._set_aside[backend] = None
        self._serial += 1
        heapq.heappush(self._delays, (backend.until, self._serial, backend))
        self._update_offer(backend)

    def abandoned(self, backend: Upstream) -> None:
        """Record an attempt that ended for a reason other than the backend, such as a client that left."""
        backend.dialling -= 1
        self.closed(backend)
        if backend.state is UpstreamState.PROBED and not backend.dialling:
            backend.state = UpstreamState.DUE
            self._update_offer(backend)

    def closed(self, backend: Upstream) -> None:
        """Record the end of a connection, or of a connection attempt."""
        backend.open -= 1
        if backend in self._offered:
            self._balancer.released(backend)
        elif backend.gone and not backend.open:
            key = backend.id, backend.host, backend.port
            if self._leaving.get(key) is backend:
                del self._leaving[key]

    def next_attempt_at(self, now: float) -> float | None:
        """Return the time at which a held connection may get a backend by `select`: `now` or later.

        None means that no time is known: the caller asks again after `update`, after `connected` has returned True, and
        after `failed` or `abandoned`.
        """
        if self._delays and self._delays[0][0] <= now:
            self._make_due(now)
        if self._offered:
            return now
        return next((max(now, b.failed_at + LAST_RESORT_DELAY) for b in self._set_aside if b.accepts_new), None)

    def _find(
        self, key: tuple[str, str, int], before: dict[tuple[str, str, int], Upstream], addresses: Iterable[str]
    ) -> Upstream | None:
        """Return the backend with this key and a common address; without a common address the backend has left."""
        for known in (before, self._by_key, self._leaving):
            backend = known.get(key)
            if backend is not None and not set(addresses).isdisjoint(backend.addresses):
                if known is not self._by_key:
                    del known[key]
                return backend
        return None

    def _make_due(self, now: float) -> None:
        while self._delays and self._delays[0][0] <= now:
            until, _, backend = heapq.heappop(self._delays)
            if backend in self._set_aside and backend.until == until:
                del self._set_aside[backend]
                backend.state = UpstreamState.DUE
                self._update_offer(backend)

    def _select_set_aside(self, tried: Collection[Upstream], now: float, *, last_resort: bool) -> Upstream | None:
        if self._offered and not last_resort:
            return None
        for backend in self._set_aside:
            if backend.accepts_new and backend not in tried:
                return backend if last_resort or backend.failed_at + LAST_RESORT_DELAY <= now else None
        if last_resort:
            # Another connection is probing the backend already.
            probed = (
                each for each in self if each.state is UpstreamState.PROBED and each.accepts_new and each not in tried
            )
            return next(probed, None)
        return None

    def _update_offer(self, backend: Upstream) -> None:
        """Make the backend available to the balancer if new connections may use the backend, unavailable otherwise."""
        if backend.accepts_new and backend.state in (UpstreamState.USABLE, UpstreamState.DUE):
            if backend not in self._offered:
                self._offered.add(backend)
                self._balancer.add(backend)
        else:
            self._withdraw(backend)

    def _withdraw(self, backend: Upstream) -> None:
        if backend in self._offered:
            self._offered.discard(backend)
            self._balancer.discard(backend)
