"""HAProxy follows the registry."""

from collections.abc import Callable

from discovery import AnyConsumer, hookimpl
from discovery_haproxy.consumer import HAProxyConsumer


@hookimpl
def discovery_register_consumers(register: Callable[[str, type[AnyConsumer]], None]) -> None:
    """Offer the consumer `haproxy`."""
    register("haproxy", HAProxyConsumer)
