"""Times that the plugin waits, where nothing tells when to go on, and the limits of what a change may cost."""

from typing import NamedTuple


class Limits(NamedTuple):
    """Times in seconds, a ratio of times, and numbers."""

    check_delay: float = 1.0
    """From a change to its check in the background: the changes of a burst are checked together."""
    check_pause_share: float = 19.0
    """Seconds without a check in the background for each second of a check: checks take at most 5 % of a core.

    With 100,000 backends, whose check takes some 6 s, there is one in 2 minutes.
    """
    check_repeat: float = 30.0
    """Until a refused file is checked again, at least: a file that was missing may have come back."""
    replacement: float = 10.0
    """In which a file that replaces the program may be missing or incomplete; a replacement takes milliseconds."""
    answer: float = 5.0
    """Until an answer of HAProxy: a worker or master that loads 10,000 backends needs one second."""
    adoption: float = 5.0
    """Until the answer of a HAProxy that is to be adopted; a HAProxy that hangs is replaced."""
    stop: float = 6.0
    """In which open connections may end. The core allows a stop 10 s, of which an apply in progress may use 2 s."""
    restarts: tuple[float, ...] = (0.0, 0.5, 1.0, 2.0, 5.0, 10.0)
    """Before each restart: at once after a single crash, slower if HAProxy keeps crashing.

    The last repeats: clients wait no longer, and a broken HAProxy does not load the machine.
    """
    look: float = 1.0
    """Between two questions for the worker's pid: a reload by another program is noticed within this time."""
    fast_batch: float = 0.003
    """Of a batch of commands below which the next batch is twice as large."""
    slow_batch: float = 0.01
    """Of a batch of commands above which the next batch is half as large.

    Requests wait for the batch, and never for 50 ms: with 20 ms in place of 10 the slowest of many requests waited for
    20 to 70 ms (`benchmarks/runtime_stalls.py`).
    """
    target: float = 0.25
    """For the test of a new server's target. A target that needs longer is left to HAProxy's check."""
    late_targets: int = 256
    """Late targets after which the others count as late, untested: many silent targets hold up a change for 1 s."""
    deletion: float = 2.0
    """Between two rounds of deletions, and the least age of a removed server.

    Until July 2026 HAProxy overlooked a request that is between two attempts to connect to the server, which takes a
    second at most.
    """
    removed_servers: int = 1000
    """Removed servers above which a reload, after which an old worker has their connections, is better.

    Each takes memory, a row of the statistics, and time whenever servers are read back.
    """


LIMITS = Limits()
"""The limits unless a test gives others."""
