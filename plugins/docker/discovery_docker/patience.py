"""Time limits for a Docker engine."""

from typing import NamedTuple

from discovery_docker.dockerapi import CALL_TIMEOUT


class Patience(NamedTuple):
    """Time limits for an engine, in seconds. A working engine keeps them, also on a busy machine."""

    connect: float = 5.0
    """Until the answer to the first request of a session."""
    answer: float = CALL_TIMEOUT
    """Until the answer to any other request."""
    quiet: float = 5.0
    """Without an event until a ping tells a quiet engine from a hanging engine."""
    ping: float = 3.0
    """Until the answer to a ping."""
    first: float = 10.0
    """Until the first state lacks the containers that cannot be inspected; what the state lacks is withdrawn."""
    reconnect: float = 5.0
    """Without the engine until its loss is an error: a restart of dockerd takes less."""
    stop: float = 10.0
    """Until `docker stop` kills a container that has no stop timeout of its own: Docker's default."""
    after_stop: float = 20.0
    """After the stop timeout until a container has survived its signal: `docker stop -t` may be longer."""


PATIENCE = Patience()
"""The time limits unless a test gives others."""
