"""Times that the plugin waits, where nothing tells when to go on."""

from typing import NamedTuple


class Limits(NamedTuple):
    """Times in seconds, and a ratio of times."""

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


LIMITS = Limits()
"""The limits unless a test gives others."""
