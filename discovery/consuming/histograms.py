"""Delays of changes, counted in histograms. Pure, and frozen: any thread reads what the consumer's thread replaces."""

from bisect import bisect_left
from collections.abc import Iterable
from itertools import accumulate
from typing import NamedTuple

from discovery.consuming.history import Delay

BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Seconds, each the upper limit of a bucket: from a change of a server at run time to a consumer that does not recover.
"""


class Histogram(NamedTuple):
    """How many values there were, by bucket: `counts` has one for each of BOUNDS, and last one for what is above."""

    counts: tuple[int, ...] = (0,) * (len(BOUNDS) + 1)
    total: float = 0.0
    """The sum of all values, in seconds."""

    def counting(self, values: Iterable[tuple[float, int]]) -> "Histogram":
        """Return this histogram with these values, in seconds, each with how often it is counted."""
        counts, total = list(self.counts), self.total
        for seconds, times in values:
            counts[bisect_left(BOUNDS, seconds)] += times
            total += times * seconds
        return Histogram(tuple(counts), total)

    @property
    def cumulative(self) -> tuple[int, ...]:
        """How many values are at most each of BOUNDS, and last how many there are."""
        return tuple(accumulate(self.counts))


class DelayHistograms(NamedTuple):
    """The delays of the changes that a consumer has applied, and their parts: see `Delay`."""

    total: Histogram = Histogram()
    watch: Histogram = Histogram()
    queue: Histogram = Histogram()
    apply: Histogram = Histogram()
    verify: Histogram = Histogram()
    """Of the applies alone whose consumer tells how long the proof took."""

    def counting(self, delays: Iterable[tuple[Delay, int]]) -> "DelayHistograms":
        """Return these histograms with these delays, each with how often it is counted."""
        known = tuple(delays)
        return DelayHistograms(
            self.total.counting((each.total, times) for each, times in known),
            self.watch.counting((each.watch, times) for each, times in known),
            self.queue.counting((each.queue, times) for each, times in known),
            self.apply.counting((each.apply, times) for each, times in known),
            self.verify.counting((each.verify, times) for each, times in known if each.verify is not None),
        )


NO_DELAYS = DelayHistograms()
