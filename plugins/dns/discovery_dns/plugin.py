"""Registration of the plugin at the core."""

from collections.abc import Callable

from discovery import AnyConsumer, hookimpl
from discovery_dns.consumer import DnsConsumer


@hookimpl
def discovery_register_consumers(register: Callable[[str, type[AnyConsumer]], None]) -> None:
    """Register the consumer `dns`."""
    register("dns", DnsConsumer)
