"""Log lines about backends that what a plugin drives finds down, and about their recovery: at a bounded rate."""

import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from structlog.typing import FilteringBoundLogger

from discovery.system.frequency import Budget

_BURST, _EVERY = 10, 6.0
"""Backends that are logged one by one at once, and the seconds until a further one is: a dead network, or a backend
that comes and goes, does not fill the log. The others are told as a number each minute."""
_SUM_EVERY = 60.0
"""Seconds between two lines with the number of the others."""


class _Down(NamedTuple):
    """Since when a backend is down, whether the log tells of it, and the address that it had then."""

    since: float
    told: bool
    address: str | None


class DownLog:
    """Tells each backend that is down once, with address and reason, and its recovery, with how long it was down.

    A recovery is told of each backend whose failure was. Not thread-safe.
    """

    def __init__(self, log: FilteringBoundLogger, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin with no backend down. `clock` returns seconds."""
        self._log, self._clock = log, clock
        self._since: dict[str, _Down] = {}
        self._single, self._sums, self._untold = Budget(_BURST, _EVERY), Budget(1, _SUM_EVERY), 0

    def tell(self, down: Mapping[str, str], address_of: Callable[[str], str | None]) -> None:
        """Take note of the backends that are down now: reasons by key.

        `address_of` returns the address of a backend that the registry has, by its key; None for any other.
        """
        now = self._clock()
        for key in [key for key in self._since if key not in down]:
            before = self._since.pop(key)
            if not before.told:
                continue
            address = address_of(key)
            event = "a backend is no longer down" if address is not None else "a backend that was down is gone"
            self._log.info(event, key=key, address=address or before.address, down_for=f"{now - before.since:.1f} s")
        for key, reason in down.items():
            if key in self._since:
                continue
            told, address = self._single.take(), address_of(key)
            self._since[key] = _Down(now, told, address)
            if told:
                self._log.warning("a backend is down", key=key, address=address, reason=reason)
            else:
                self._untold += 1
        if self._untold and self._sums.take():
            self._log.warning("more backends are down, or were", backends=self._untold)
            self._untold = 0
