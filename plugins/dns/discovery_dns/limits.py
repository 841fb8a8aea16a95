"""Time limits of the server."""

from typing import NamedTuple


class Limits(NamedTuple):
    """Time limits in seconds."""

    first_apply: float = 2.0
    """That queries wait for the first snapshot; then the answer is SERVFAIL. Clients repeat a query after 5 s.

    A successor of a daemon applies within this time, so that its clients see no failure.
    """
    retry: float = 1.0
    """Between attempts to open an address."""
    first_query: float = 0.5
    """That a new connection has for its first query when the server ends: clients send it at once."""
    last_answers: float = 2.0
    """That clients have to read the answers that they have asked for when the server ends."""


LIMITS = Limits()
"""The limits of a server unless a test gives others."""
