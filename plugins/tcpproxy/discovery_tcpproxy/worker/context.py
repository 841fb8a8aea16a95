"""Objects that the listeners of a worker share."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from discovery_tcpproxy.worker.buffer import ReadBuffer
from discovery_tcpproxy.worker.descriptors import Descriptors
from discovery_tcpproxy.worker.loop import Loop


class WorkerContext(NamedTuple):
    """Objects and callbacks that all listeners of a worker share."""

    loop: Loop
    buffer: ReadBuffer
    descriptors: Descriptors
    send_event: Callable[[Mapping[str, Any]], None]
    """Sends an event to the daemon."""
    connection_ended: Callable[[], None]
    """Called after each connection that has ended."""
