"""Registration of the consumer `nginx`."""

from collections.abc import Callable

from discovery import AnyConsumer, hookimpl
from discovery_template.proxies.nginx import NginxConsumer


@hookimpl
def discovery_register_consumers(register: Callable[[str, type[AnyConsumer]], None]) -> None:
    """Register the consumer `nginx`."""
    register("nginx", NginxConsumer)
