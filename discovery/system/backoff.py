"""Delays between attempts: doubling, capped, jittered."""

import random
from collections.abc import Iterator


def delays(first: float = 0.5, most: float = 30.0) -> Iterator[float]:
    """Seconds to wait after the first failure, the second and so on: each about twice the last, never over `most`.

    A fifth either way at random, so that many who failed together do not come back together.
    """
    delay = first
    while True:
        yield min(delay * random.uniform(0.8, 1.2), most)  # noqa: S311 - no secret depends on it
        delay = min(delay * 2, most)
