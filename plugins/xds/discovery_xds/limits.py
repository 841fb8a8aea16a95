"""Limits of the xDS server."""

from typing import NamedTuple


class Limits(NamedTuple):
    """Time limits in seconds, and bounds on memory."""

    successor: float = 8.0
    """Seconds that a predecessor listens on for a successor that does not: less than the time of a `teardown`."""
    retry: float = 10.0
    """Seconds until a rejected secret is sent again: no message tells that the client's file is another."""
    names: int = 100_000
    """Names that a client may subscribe to: ten times the largest installation known."""


LIMITS = Limits()
"""The limits of a server unless a test gives others."""
