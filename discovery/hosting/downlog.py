"""Log lines about backends that what a plugin drives finds down, and about their recovery: at a bounded rate."""

import time
from collections.abc import Callable, Mapping

from structlog.typing import FilteringBoundLogger

from discovery.system.frequency import Budget

_BURST, _EVERY = 10, 6.0
"""Backends that are logged one by one at once, and the seconds until a further one is: a dead network, or a backend
that comes and goes, does not fill the log. The others are told as a number each minute."""
_SUM_EVERY = 60.0
"""Seconds between two lines with the number of the others."""


class DownLog:
    """Tells each backend that is down once, with the reason, and its recovery, with how long it was down.

    A recovery is told of each backend whose failure was. Not thread-safe.
    """

    def __init__(self, log: FilteringBoundLogger, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin with no backend down. `clock` returns seconds."""
        self._log, self._clock = log, clock
        self._since: dict[str, tuple[float, bool]] = {}  # and whether the backend was told of
        self._single, self._sums, self._untold = Budget(_BURST, _EVERY), Budget(1, _SUM_EVERY), 0

    def tell(self, down: Mapping[str, str], is_listed: Callable[[str], bool] = lambda _: True) -> None:
        """Take note of the backends that are down now: reasons by key. `is_listed` says if the registry has a key."""
        now = self._clock()
        for key in [key for key in self._since if key not in down]:
            since, told = self._since.pop(key)
            if not told:
                continue
            if is_listed(key):
                self._log.info("a backend is no longer down", key=key, down_for=f"{now - since:.1f} s")
            else:
                self._log.info("a backend that was down is gone", key=key, down_for=f"{now - since:.1f} s")
        for key, reason in down.items():
            if key in self._since:
                continue
            told = self._single.take()
            self._since[key] = now, told
            if told:
                self._log.warning("a backend is down", key=key, reason=reason)
            else:
                self._untold += 1
        if self._untold and self._sums.take():
            self._log.warning("more backends are down, or were", backends=self._untold)
            self._untold = 0
