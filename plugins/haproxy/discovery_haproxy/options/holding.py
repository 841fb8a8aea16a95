"""Requests that wait while their service has no available backend: combinations that are refused, and attempts.

HAProxy sends a request without a backend to the holding server, which refuses, and tries again after a pause.
"""

import math
from typing import Protocol

from discovery.fields import Duration, duration_text

HOLD = Duration(most=3600, zero="answer at once")
"""Type of the time for which requests wait: an hour is longer than any fail-over."""
MOST_FREE = 1_900_000_000
"""Connections that the backends of a service can take together. The holding server can take more, so that HAProxy's
`be_conn_free` tells whether the holding server alone is left. HAProxy's largest number is 2,147,483,647."""
_MOST_ATTEMPTS = 65_535
"""Attempts of a request: HAProxy from 3.1 on counts with 16 bits, and takes the remainder of a larger number."""
_LONGEST_PAUSE_SECONDS = 1.0
"""HAProxy's pause in seconds after a refused connection while no other server is up."""


class Holding(Protocol):
    """The options of a service that decide whether its requests can wait."""

    @property
    def hold(self) -> float:
        """Seconds for which requests wait."""

    @property
    def check(self) -> object:
        """The check of the backends; None for none."""

    @property
    def backs_up_with_all(self) -> bool:
        """Report whether traffic for backups goes to every backup."""


def attempts(hold: float, connect: float) -> int:
    """Return the number of attempts that cover `hold` seconds. `connect` is the timeout of a connection in seconds.

    HAProxy's pause is the timeout of a connection if that is shorter than a second.
    """
    return math.ceil(round(hold / min(_LONGEST_PAUSE_SECONDS, connect), 6))


def check_holding(service: Holding, *, sets_connections: bool) -> None:
    """Raise ValueError if requests of the service cannot wait, although an option says so."""
    if not service.hold:
        if sets_connections:
            raise ValueError("'hold_connections' has no effect without 'hold'")
        return
    if service.check is None:
        raise ValueError("'hold' needs a check: without a check HAProxy takes a dead backend for available")
    if service.backs_up_with_all:
        raise ValueError("'hold' cannot be used with 'backup.all': a part of the traffic for backups would wait")


def check_timeouts(name: str, hold: float, *, client: float, connect: float) -> None:
    """Raise ValueError if requests of a service cannot wait for `hold` seconds with these timeouts in seconds.

    HAProxy ends a client that waits after the timeout of the client, and after so many attempts to connect.
    """
    if hold >= client:
        raise ValueError(
            f"'hold' of service {name!r} ({duration_text(hold)}) has to be shorter than its timeouts.client"
            f" ({duration_text(client)}), after which HAProxy ends a client that waits"
        )
    if (count := attempts(hold, connect)) > _MOST_ATTEMPTS:
        least = math.ceil(1000 * hold / _MOST_ATTEMPTS) / 1000
        raise ValueError(
            f"'hold' of service {name!r} ({duration_text(hold)}) needs {count} attempts with timeouts.connect"
            f" {duration_text(connect)}, and HAProxy makes at most {_MOST_ATTEMPTS}: set timeouts.connect to"
            f" {duration_text(least)} or more"
        )
