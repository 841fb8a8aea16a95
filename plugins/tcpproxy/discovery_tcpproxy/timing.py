"""Time limits for worker processes."""

from typing import NamedTuple


class Timing(NamedTuple):
    """Time limits and intervals in seconds."""

    answer: float = 10.0
    """Without an answer until a worker counts as hanging: far more than a loaded machine needs."""
    start: float = 30.0
    """For the answers of a young worker, and the age until which a worker is young: imports may be slow."""
    hello: float = 5.0
    """For the first answer of an adopted worker, for which the start of the daemon waits."""
    stragglers: float = 2.0
    """For workers that have not answered when another worker has: a change does not wait for a hung worker."""
    report: float = 1.0
    """Between two reports of a worker; a worker that does not answer a report is hanging."""


TIMING = Timing()
"""The limits unless a test gives others."""
