"""The consumer plugin `haproxy`: HAProxy serves the services of the registry."""

from collections.abc import Callable

from discovery import AnyConsumer, hookimpl
from discovery_haproxy.consumer import HAProxyConsumer


@hookimpl
def discovery_register_consumers(register: Callable[[str, type[AnyConsumer]], None]) -> None:
    """Register the consumer `haproxy`."""
    register("haproxy", HAProxyConsumer)
