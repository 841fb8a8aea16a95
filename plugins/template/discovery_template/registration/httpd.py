"""Registration of the consumer `httpd`."""

from collections.abc import Callable

from discovery import AnyConsumer, hookimpl
from discovery_template.proxies.httpd import HttpdConsumer


@hookimpl
def discovery_register_consumers(register: Callable[[str, type[AnyConsumer]], None]) -> None:
    """Register the consumer `httpd`."""
    register("httpd", HttpdConsumer)
