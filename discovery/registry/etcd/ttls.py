"""The TTL of each leased record: the TTL that the record states, or else the TTL of its lease. No I/O."""

from typing import Final

from discovery.codec import stated_ttl

DEFAULT_TTL: Final = 30.0
"""Seconds, the assumed TTL of a lease while its TTL is not known, or if the cluster does not return it."""
_MOST_KNOWN: Final = 10_000
"""Leases, the limit of known TTLs and of TTLs to look up: a bound on memory, above the usual number of backends."""


class TTLs:
    """The TTLs of leases by lease number, and the leases whose TTL is to be looked up.

    Records that this project writes state their TTL, and need no lookup. For other records each lease is looked up
    once, and few lookups run at a time: every lookup is a request to the cluster's leader.
    """

    def __init__(self) -> None:
        """Create the table. No TTL is known."""
        self._known: dict[int, float] = {}
        self._wanted: dict[int, set[str]] = {}
        self._learned: dict[str, float] = {}

    def of(self, lease: int, key: str, value: bytes) -> float:
        """Return the TTL in seconds of the record `key` under `lease`; DEFAULT_TTL while that TTL is not known."""
        stated = stated_ttl(value)
        if stated is not None:
            return stated
        if (known := self._known.get(lease)) is not None:
            return known
        if lease in self._wanted or len(self._wanted) < _MOST_KNOWN:
            self._wanted.setdefault(lease, set()).add(key)
        return DEFAULT_TTL

    def wanted(self, count: int) -> list[int]:
        """Return up to `count` leases whose TTL is to be looked up."""
        return [lease for lease, _ in zip(self._wanted, range(count), strict=False)]

    def learn(self, lease: int, ttl: float) -> None:
        """Store the TTL in seconds that was granted to `lease`. 0 or less means that the TTL is not available."""
        keys = self._wanted.pop(lease, set())
        if ttl <= 0:
            return
        if len(self._known) >= _MOST_KNOWN:
            del self._known[next(iter(self._known))]
        self._known[lease] = ttl
        self._learned.update(dict.fromkeys(keys, ttl))

    def learned(self) -> dict[str, float]:
        """Return the TTLs of records that have become known since the last call, by key."""
        learned, self._learned = self._learned, {}
        return learned
