"""Delays between attempts: doubling, capped, jittered."""

import random
from collections.abc import Iterator


def delays(first: float = 0.5, most: float = 30.0) -> Iterator[float]:
    """Yield the seconds to wait after the first failure, the second failure, and so on, without an end.

    The first delay is about `first`. Each delay is about twice the delay before, and never more than `most`. Each
    varies by a fifth at random, so that clients that failed together do not all come back together. One iterator serves
    one thread.
    """
    delay = first
    while True:
        yield min(delay * random.uniform(0.8, 1.2), most)  # noqa: S311 - no secret depends on it
        delay = min(delay * 2, most)
