"""When a consumer applies next: after a change, after a quiet period, after a failure, on request. Pure."""

import math
from typing import NamedTuple


class ApplySchedule(NamedTuple):
    """Decides when the latest snapshot is applied. Each event makes the next schedule.

    The owner tells with `changed` whether the latest snapshot differs from the one that was applied last. Older
    snapshots play no part, so the latest wins. Instants are seconds of one clock.
    """

    not_before: float = -math.inf
    """The instant before which nothing is applied. A new snapshot never brings this instant forward."""
    unconditional: bool = False
    """Apply an unchanged snapshot, too: on request, and after a failure, which leaves the consumer in an unknown state.
    """

    def is_pending(self, *, changed: bool) -> bool:
        """Return True if an apply is to come, now or later."""
        return changed or self.unconditional

    def is_due(self, now: float, *, changed: bool) -> bool:
        """Return True when the time to apply has come."""
        return self.is_pending(changed=changed) and now >= self.not_before

    def next_look(self, at_latest: float, *, changed: bool) -> float:
        """Return the instant to look again if nothing happens before: when the apply is due, or `at_latest`."""
        return min(at_latest, self.not_before) if self.is_pending(changed=changed) else at_latest

    def requested(self) -> "ApplySchedule":
        """Apply at once, whatever has changed: neither a retry nor a quiet period is waited out."""
        return ApplySchedule(unconditional=True)

    def first_change_at(self, now: float, quiet_period: float) -> "ApplySchedule":
        """Wait `quiet_period` seconds from this change, the first since the last apply. Later ones do not add to it."""
        return self._replace(not_before=now + quiet_period)

    def failed(self, now: float, delay: float) -> "ApplySchedule":
        """Apply again in `delay` seconds, even if the latest snapshot is by then the one that was applied before."""
        return ApplySchedule(now + delay, unconditional=True)

    def succeeded(self) -> "ApplySchedule":
        """Apply the next change as soon as a change comes."""
        return ApplySchedule()
