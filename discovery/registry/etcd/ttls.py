"""The TTL of each leased record: taken from the record where it states one, else looked up by its lease. No I/O."""

from typing import Final

from discovery.codec import stated_ttl

DEFAULT_TTL: Final = 30.0
"""Seconds assumed while a lease's TTL is not known, or where the cluster does not tell it."""
_MOST_KNOWN: Final = 10_000


class TTLs:
    """The TTLs of leases by their numbers, and the leases whose TTL is to be looked up.

    Our own records state their TTL, so 10,000 of them cost no look-up. Members other than the leader forward each
    look-up to it, so those that remain are few at a time, and each lease is asked for once.
    """

    def __init__(self) -> None:
        """Know nothing."""
        self._known: dict[int, float] = {}
        self._wanted: dict[int, set[str]] = {}
        self._learned: dict[str, float] = {}

    def of(self, lease: int, key: str, value: bytes) -> float:
        """Return the TTL in seconds of the record `key` under `lease`, DEFAULT_TTL until known."""
        stated = stated_ttl(value)
        if stated is not None:
            return stated
        if (known := self._known.get(lease)) is not None:
            return known
        if lease in self._wanted or len(self._wanted) < _MOST_KNOWN:
            self._wanted.setdefault(lease, set()).add(key)
        return DEFAULT_TTL

    def wanted(self, count: int) -> list[int]:
        """Up to `count` leases whose TTL is to be looked up."""
        return [lease for lease, _ in zip(self._wanted, range(count), strict=False)]

    def learn(self, lease: int, ttl: float) -> None:
        """Take in what the cluster grants to `lease`; 0 or less: it is gone, or is not told."""
        keys = self._wanted.pop(lease, set())
        if ttl <= 0:
            return
        if len(self._known) >= _MOST_KNOWN:
            del self._known[next(iter(self._known))]
        self._known[lease] = ttl
        self._learned.update(dict.fromkeys(keys, ttl))

    def learned(self) -> dict[str, float]:
        """The TTLs of records that have become known since this was last asked."""
        learned, self._learned = self._learned, {}
        return learned
