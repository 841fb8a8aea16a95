"""Rejected records: the details of some, and the number of the others. Linear time, bounded memory."""

from discovery.model import Rejected

MOST_DETAILED = 1000
"""Rejections kept with key and reason; of the others only the number."""
MOST_OF_A_RECORD = 10
"""Of one record's ignored fields so many are detailed: a record has room for thousands."""


class Rejections:
    """The rejected records and fields of a registry, by key.

    Up to MOST_DETAILED are kept with their reasons; which ones these are when there are more depends on the order in
    which they came. Of each other record a number is kept that stands for its key, and how many rejections it has.
    """

    def __init__(self) -> None:
        """Begin with none."""
        self._detailed: dict[str, tuple[Rejected, ...]] = {}
        self._details = 0
        self._others: dict[int, int] = {}
        self._more = 0
        self._shown: tuple[Rejected, ...] | None = ()

    @property
    def detailed(self) -> tuple[Rejected, ...]:
        """Those kept with their reasons, ordered by key; the same object until one of them changes."""
        if self._shown is None:
            self._shown = tuple(each for key in sorted(self._detailed) for each in self._detailed[key])
        return self._shown

    @property
    def more(self) -> int:
        """The number of the others."""
        return self._more

    def put(self, key: str, rejected: tuple[Rejected, ...]) -> None:
        """Keep the rejections of the record at `key`, in place of those kept before; none: drop it."""
        if self._detailed.get(key) == rejected:
            return
        self.drop(key)
        if not rejected:
            return
        shown = tuple(sorted(rejected, key=lambda each: each.field or ""))[:MOST_OF_A_RECORD]
        if self._details + len(shown) > MOST_DETAILED:
            shown = ()
        if shown:
            self._detailed[key] = shown
            self._details += len(shown)
            self._shown = None
        if rest := len(rejected) - len(shown):
            self._others[hash(key)] = rest
            self._more += rest

    def drop(self, key: str) -> None:
        """Keep nothing of the record at `key`."""
        shown = self._detailed.pop(key, None)
        if shown is not None:
            self._details -= len(shown)
            self._shown = None
        if self._others:
            self._more -= self._others.pop(hash(key), 0)
